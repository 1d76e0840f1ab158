"""The pass `prompts`: a graph with virtual tokens computes what transformers does with what PEFT feeds it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compiler.adapters import AddPrompts
from compiler.errors import LlmcError, PassError
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.mesh import collectives
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.step import Step, all_positions
from compiler.ir.tasks import TASKS, Task, tasks_of
from compiler.ir.verifier import verify
from compiler.ir.virtual_ranks import VirtualRanks
from compiler.passes import parse_pipeline, run_pipeline, spell
from compiler.passes.quant.caches.kv import quantize_caches
from tests.adapters.folders import PREFIX, Sizes, adapter, bundled, config, logits, table, write
from tests.frontends.models import random_model, saved
from tests.frontends.steps import lift_folder
from tests.passes.parallel.meshes import AUTOMATIC, FAMILIES, lifted, rewritten

# What float32 sums in another order may differ by, in logits of about 10: 128 products each, in 4 layers.
CLOSE = 2e-4
KINDS = {"soft": ("PROMPT_TUNING", 5), "prefix": (PREFIX, 7), "encoded": ("P_TUNING", 3)}
PROMPTS: Sequence[tuple[str | None, list[int]]] = (
    ("soft", [7, 8, 9, 300]), (None, [5, 6]), ("prefix", [900, 3, 4, 8, 8, 1]), ("encoded", [4]),
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of all kinds, in folders of the names of their tasks."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, (kind, tokens)) in enumerate(KINDS.items()):
        adapter(folder / name, kind, tokens, seed)
    return folder


def values_of(name: str) -> tuple[str, Tensor]:
    """The kind of a task, and its table."""
    kind, tokens = KINDS[name]
    return kind, table(kind, tokens, list(KINDS).index(name))


def text(folders: Path, *names: str) -> str:
    """The pass with these tasks, as a text."""
    return "prompts=" + "+".join(str(folders / name) for name in names)


def found(graph: Graph, rows: Sequence[tuple[str | None, Sequence[int]]]) -> list[Tensor]:
    """The logits after each token of prompts, which run in one step of all ranks, after their virtual tokens."""
    tasks = {task.name: task for task in tasks_of(graph.facts)}
    virtual = [tasks[name].ids if name is not None else [] for name, _ in rows]
    step = Step.of_prompts([[*ids, *prompt] for ids, (_, prompt) in zip(virtual, rows, strict=True)])
    step = step.wanting(all_positions(step.batch, step.length))
    ranks = VirtualRanks(graph)
    outputs, _ = ranks(step._asdict(), ranks.empty_states(step.batch, step.length))
    return [
        row[len(ids) : len(ids) + len(prompt)]
        for row, ids, (_, prompt) in zip(outputs["logits"], virtual, rows, strict=True)
    ]


MESHES = ("tp=2", "pp=2", "tp=2,embed=vocab", "tp=2,embed=hidden", "tp=4,pp=2,embed=vocab")


@pytest.mark.parametrize("passes", ["", *MESHES])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(folders: Path, family: str, passes: str) -> None:
    pipeline = ",".join(filter(None, [text(folders, *KINDS), passes, AUTOMATIC]))
    graph = rewritten(lifted(family), pipeline)
    for (name, prompt), given_ in zip(PROMPTS, found(graph, PROMPTS), strict=True):
        kind, values = values_of(name) if name is not None else (None, None)
        torch.testing.assert_close(given_, logits(bundled(family), prompt, kind, values), rtol=0.0, atol=CLOSE)


@pytest.mark.parametrize("passes", MESHES)
def test_ranks_exchange_no_more_than_without_tasks(folders: Path, passes: str) -> None:
    graph = run_pipeline(lifted("opt"), f"{text(folders, *KINDS)},{passes}").graph
    assert collectives(graph) == collectives(run_pipeline(lifted("opt"), passes).graph)


@st.composite
def mixtures(draw: Any) -> tuple[list[tuple[str, int]], list[tuple[int | None, list[int]]]]:
    """Some adapters of random kinds and sizes; and prompts, each with the number of an adapter or None."""
    kinds = st.sampled_from([kind for kind, _ in KINDS.values()])
    adapters = draw(st.lists(st.tuples(kinds, st.integers(1, 6)), min_size=1, max_size=4))
    prompt = st.lists(st.integers(0, 30), min_size=1, max_size=5)
    rows = draw(st.lists(st.tuples(st.none() | st.integers(0, len(adapters) - 1), prompt), min_size=1, max_size=5))
    return adapters, rows


_SIZES = Sizes(layers=2, heads=2, width=16)
_LAYERS = {"vocab_size": 31, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
CONFIGS: dict[str, tuple[Any, Any]] = {
    "neox": (
        transformers.GPTNeoXForCausalLM,
        transformers.GPTNeoXConfig(**_LAYERS, intermediate_size=24, tie_word_embeddings=True),
    ),
    "gptj": (
        transformers.GPTJForCausalLM,
        transformers.GPTJConfig(vocab_size=31, n_embd=16, n_head=2, n_layer=2, rotary_dim=4, n_positions=24),
    ),
    "opt": (
        transformers.OPTForCausalLM,
        transformers.OPTConfig(**_LAYERS, ffn_dim=24, word_embed_proj_dim=16, max_position_embeddings=24),
    ),
    "mpt": (
        transformers.MptForCausalLM,
        transformers.MptConfig(vocab_size=31, d_model=16, n_heads=2, n_layers=2, max_seq_len=24),
    ),
}


@pytest.mark.parametrize("family", CONFIGS)
@given(mixture=mixtures(), seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_any_tasks_in_one_batch(family: str, mixture: Any, seed: int) -> None:
    adapters, rows = mixture
    model, sizes = random_model(*CONFIGS[family], seed), _SIZES
    tables = [table(kind, tokens, number, sizes) for number, (kind, tokens) in enumerate(adapters)]
    with saved(model) as folder, tempfile.TemporaryDirectory() as place:
        for number, (kind, tokens) in enumerate(adapters):
            write(Path(place, str(number)), config(kind, tokens, sizes), {"prompt_embeddings": tables[number]})
        names = tuple(str(number) for number in range(len(adapters)))
        graph = AddPrompts(tuple(Path(place, name) for name in names))(lift_folder(folder))
        verify(graph)
        named = [(None if number is None else str(number), prompt) for number, prompt in rows]
        results = found(graph, named)
        for (number, prompt), given_ in zip(rows, results, strict=True):
            kind, values = (None, None) if number is None else (adapters[number][0], tables[number])
            expected = logits(model, prompt, kind, values, sizes)
            torch.testing.assert_close(given_, expected, rtol=1e-4, atol=1e-4)


def test_projected_embeddings_are_those_before_the_projection(tmp_path: Path) -> None:
    """As in opt-350m, whose embeddings are narrower than its layers."""
    shape = {"hidden_size": 16, "word_embed_proj_dim": 10, "num_attention_heads": 2, "num_hidden_layers": 1}
    keys = {"vocab_size": 31, "ffn_dim": 8, "max_position_embeddings": 24, "do_layer_norm_before": False}
    model = random_model(transformers.OPTForCausalLM, transformers.OPTConfig(**shape, **keys), 0)
    sizes = Sizes(1, 2, 10)
    values = table("PROMPT_TUNING", 3, sizes=sizes)
    write(tmp_path / "a", config("PROMPT_TUNING", 3, sizes), {"prompt_embeddings": values})
    with saved(model) as folder:
        graph = AddPrompts((tmp_path / "a",))(lift_folder(folder))
        [given_] = found(graph, [("a", [3, 4, 5])])
    torch.testing.assert_close(given_, logits(model, [3, 4, 5], "PROMPT_TUNING", values), rtol=1e-4, atol=1e-4)


def test_a_table_that_torch_stores_transposed_is_read_as_it_is(tmp_path: Path) -> None:
    values = table(PREFIX, 4)
    stored = values.T.contiguous().T
    assert not stored.is_contiguous()
    folder = write(tmp_path / "a", config(PREFIX, 4), {"prompt_embeddings": stored}, pickled=True)
    [given_] = found(AddPrompts((folder,))(lifted("opt")), [("a", [7, 8])])
    torch.testing.assert_close(given_, logits(bundled("opt"), [7, 8], PREFIX, values), rtol=0.0, atol=CLOSE)


def test_prompts_without_a_task_are_as_before_to_the_last_bit(folders: Path) -> None:
    graph = run_pipeline(lifted("gptj"), text(folders, *KINDS)).graph
    rows: list[tuple[str | None, list[int]]] = [(None, [1, 2, 3]), (None, [9])]
    for with_tasks, without in zip(found(graph, rows), found(lifted("gptj"), rows), strict=True):
        assert with_tasks.equal(without)


def test_the_fact_lists_tasks_by_their_ids(folders: Path) -> None:
    graph = run_pipeline(lifted("opt"), f"{text(folders, 'prefix', 'soft')}:tasks=a+b").graph
    assert tasks_of(graph.facts) == (Task("b", "PROMPT_TUNING", 1024, 5), Task("a", PREFIX, 1029, 7))
    assert tasks_of(lifted("opt").facts) == ()
    assert parse_graph(print_graph(graph)) == graph
    assert graph.facts["parameters"] == int(lifted("opt").facts["parameters"]) + 5 * 128 + 7 * 8 * 128


def test_a_model_with_embeddings_alone_keeps_its_caches_as_they_are(folders: Path) -> None:
    graph = run_pipeline(lifted("opt"), text(folders, "soft", "encoded")).graph
    kinds = Counter(op.kind.name for op in graph.ops)
    before = Counter(op.kind.name for op in lifted("opt").ops)
    assert kinds["embedding"] == before["embedding"] + 1
    assert [graph.producers[value.name].operands[1] for _, value in graph.states().values()] == [
        lifted("opt").producers[value.name].operands[1] for _, value in lifted("opt").states().values()
    ]


@pytest.mark.parametrize("passes", ["dtype=float16,{}", "{},dtype=float16"])
def test_tables_are_rounded_to_the_models_type(folders: Path, passes: str) -> None:
    graph = run_pipeline(lifted("mpt"), passes.format(text(folders, *KINDS))).graph
    verify(graph)
    kind, values = values_of("prefix")
    [given_] = found(graph, [("prefix", [7, 8, 9])])
    expected = logits(bundled("mpt"), [7, 8, 9], kind, values)
    assert 0 < (given_.float() - expected).norm() / expected.norm() < 0.01


def test_a_pipelines_text_is_read_back(folders: Path) -> None:
    [step] = parse_pipeline(f"prompts={folders / 'soft'}+{folders / 'prefix'}:tasks=my task+b%2Bc".replace(" ", "%20"))
    assert step == AddPrompts((folders / "soft", folders / "prefix"), ("my task", "b+c"))
    assert parse_pipeline(spell(step)) == (step,)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (((), ()), "names no adapter folder"),
        (((Path("a"), Path("b")), ("x",)), "2 adapter folders and 1 names"),
        (((Path("a"), Path("b")), ("x", "x")), "two tasks of the name 'x'"),
        (((Path("here/a"), Path("there/a")), ()), "two tasks of the name 'a'"),
        (((Path("a"),), ("",)), "a task has no name"),
    ],
)
def test_tasks_have_one_name_each(given_: Any, message: str) -> None:
    with pytest.raises(PassError, match=message) as raised:
        AddPrompts(*given_)
    assert raised.value.hint


@pytest.mark.parametrize("before", ["tp=2", "pp=2", "merge-linears,fuse-attention,cache=paged"])
def test_passes_that_come_too_early_are_told_with_the_mend(folders: Path, before: str) -> None:
    with pytest.raises(PassError) as raised:
        run_pipeline(lifted("opt"), f"{before},{text(folders, 'soft')}")
    assert "before tp, pp and cache=paged" in str(raised.value.hint)


def test_a_graph_gets_tasks_once(folders: Path) -> None:
    with pytest.raises(PassError, match="has tasks already"):
        run_pipeline(lifted("opt"), f"{text(folders, 'soft')},{text(folders, 'prefix')}")


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        ("PROMPT_TUNING", Sizes(width=64), "has embeddings of 64 .*; the model's have 128"),
        ("PROMPT_TUNING", Sizes(layers=12), "is for a model of 12 layers; this one has 4"),
        ("P_TUNING", Sizes(heads=8), "is for a model of 8 heads; this one has 4"),
        (PREFIX, Sizes(layers=12), "is for a model of 12 layers; this one has 4"),
        (PREFIX, Sizes(heads=8), "is for a model of 8 heads; this one has 4"),
        (PREFIX, Sizes(width=64), "4 heads have 64 columns .*; the cache %cache.0.k has 4 heads with 128"),
    ],
)
def test_an_adapter_of_another_model_is_refused(tmp_path: Path, kind: str, sizes: Sizes, message: str) -> None:
    write(tmp_path / "a", config(kind, 3, sizes), {"prompt_embeddings": table(kind, 3, sizes=sizes)})
    with pytest.raises(LlmcError, match=message) as raised:
        run_pipeline(lifted("opt"), f"prompts={tmp_path / 'a'}")
    assert "trained for this checkpoint" in str(raised.value.hint)
    assert str(tmp_path / "a") in str(raised.value)


def test_caches_that_were_quantized_before_are_noted(folders: Path) -> None:
    graph = lifted("opt")
    packed = quantize_caches(graph, DType.i8, {name: torch.full((4,), 0.1) for name in graph.states()})
    result = run_pipeline(packed, text(folders, "prefix"))
    assert any("write prompts before kv" in said for said in result.notes)
    kind, values = values_of("prefix")
    [given_] = found(result.graph, [("prefix", [7, 8, 9])])
    expected = logits(bundled("opt"), [7, 8, 9], kind, values)
    assert (given_ - expected).norm() / expected.norm() < 0.2
    assert run_pipeline(packed, text(folders, "soft")).notes == ()


def test_what_else_reads_tokens_is_refused(folders: Path) -> None:
    graph = lifted("opt")
    readers = [op for op in graph.ops if any(value.name == "token_ids" for value in op.operands)]
    assert [op.kind.name for op in readers] == ["embedding"]
    text_ = print_graph(graph).replace(
        "output logits", ".:\n  %odd: i32[B,S] = add(%token_ids, %token_ids)\noutput odd = %odd\noutput logits"
    )
    with pytest.raises(PassError, match=r"add %odd .* reads the tokens"):
        AddPrompts((folders / "soft",))(parse_graph(text_))


def test_the_fact_is_of_every_rank(folders: Path) -> None:
    graph = run_pipeline(lifted("opt"), f"{text(folders, 'soft')},tp=2,pp=2").graph
    assert all(TASKS in rank.facts for rank in VirtualRanks(graph).graphs)
    assert dataclasses.asdict(tasks_of(graph.facts)[0])["virtual_tokens"] == 5
