"""Virtual tokens in random models of every family and variant, on one rank and on several."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compiler.adapters import AddPrompts
from compiler.ir.cache_layout import cache_name
from compiler.ir.graph import Graph
from compiler.ir.step import Step, all_positions
from compiler.ir.tasks import tasks_of
from compiler.ir.virtual_ranks import VirtualRanks
from compiler.passes import run_pipeline
from tests.adapters.folders import PREFIX, Sizes, config, table, write
from tests.passes.parallel.configs import Case, cases, noise_model

TOKENS = 4
CAPACITY = 16


def with_tasks(graph: Graph, folder: Path) -> tuple[Graph, Tensor]:
    """The graph with a task of embeddings and one of a prefix, and the table of the prefix."""
    facts = {name: fact for name, fact in graph.facts.items() if isinstance(fact, int)}
    [lookup] = [op for op in graph.users["token_ids"] if op.kind.name == "embedding"]
    width = lookup.result.type.shape[-1]
    assert isinstance(width, int)
    soft = Sizes(facts["layers"], facts["heads"], width)
    prefix = Sizes(facts["layers"], facts["kv_heads"], facts["kv_heads"] * facts["head_dim"])
    values = table(PREFIX, TOKENS, 1, prefix)
    write(folder / "soft", config("PROMPT_TUNING", 3, soft), {"prompt_embeddings": table("PROMPT_TUNING", 3, 0, soft)})
    write(folder / "prefix", config(PREFIX, TOKENS, prefix), {"prompt_embeddings": values})
    return AddPrompts((folder / "soft", folder / "prefix"))(graph), values


def run(graph: Graph, rows: list[list[int]], past: int = 0, states: list[dict[str, Tensor]] | None = None) -> Tensor:
    """The logits after each token of rows of one length."""
    token_ids = torch.tensor(rows, dtype=torch.int32)
    step = Step.prefill(token_ids, logit_pos=all_positions(*token_ids.shape))
    step = step._replace(past_len=step.past_len + past)
    ranks = VirtualRanks(graph)
    found: Tensor = ranks(step._asdict(), states or ranks.empty_states(len(rows), CAPACITY))[0]["logits"]
    return found


def prefilled(graph: Graph, values: Tensor, rows: int) -> list[dict[str, Tensor]]:
    """Caches of a model whose first positions hold a prefix."""
    [states] = VirtualRanks(graph).empty_states(rows, CAPACITY)
    layers, heads, width = (int(graph.facts[name]) for name in ("layers", "kv_heads", "head_dim"))
    parts = values.view(TOKENS, layers, 2, heads, width).permute(1, 2, 3, 0, 4)
    for layer in range(layers):
        for part, which in enumerate("kv"):
            if (name := cache_name(layer, which)) in states:
                states[name] = states[name].clone()
                states[name][:, :, :TOKENS] = parts[layer, part]
    return [states]


@given(case=cases(), data=st.data())
@settings(max_examples=25)
def test_a_prefix_is_what_the_caches_would_hold(case: Case, data: st.DataObject) -> None:
    graph = noise_model(case.config)
    ids = st.integers(0, int(graph.facts["vocab_size"]) - 1)
    rows = data.draw(st.lists(st.lists(ids, min_size=3, max_size=3), min_size=1, max_size=2))
    with tempfile.TemporaryDirectory() as folder:
        changed, values = with_tasks(graph, Path(folder))
        prefix = tasks_of(changed.facts)[-1]
        found = run(changed, [[*prefix.ids, *row] for row in rows])[:, TOKENS:]
    expected = run(graph, rows, TOKENS, prefilled(graph, values, len(rows)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@given(case=cases(), passes=st.sampled_from(["", "embed=vocab,", "pp=2,", "embed=vocab,pp=2,"]))
@settings(max_examples=25)
def test_ranks_compute_what_one_does(case: Case, passes: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        graph, _ = with_tasks(noise_model(case.config), Path(folder))
        soft, prefix = tasks_of(graph.facts)
        rows = [[*soft.ids, 1, 2], [*prefix.ids, 3], [4, 3, 2, 1, 0]]
        ranks = run_pipeline(graph, f"tp={case.tp},{passes}merge-linears,fuse-attention").graph
        torch.testing.assert_close(run(ranks, rows), run(graph, rows), rtol=1e-3, atol=1e-3)
