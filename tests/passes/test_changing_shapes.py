"""Passes that change shapes: the cookbook's, which remove heads and layers, on all families and with all else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import llmc
from compiler.errors import GraphError, PassError
from compiler.ir.graph import Graph
from compiler.ir.virtual_ranks import VirtualRanks
from compiler.passes import load_plugin, run_pipeline
from tests.frontends.models import logits_of, random_model, saved
from tests.frontends.steps import assert_same_logits, lift_folder
from tests.passes.guide import COOKBOOK, guide_code
from tests.passes.parallel.test_pp import reusing
from tests.registrations import forgotten

MODELS = COOKBOOK.parents[1] / "examples" / "models"
HEADS, WIDTH, LAYERS, VOCABULARY = 4, 6, 3, 31
SIZES = {"vocab_size": VOCABULARY}
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt_neox": (
        transformers.GPTNeoXForCausalLM,
        {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 20},
    ),
    "gptj": (
        transformers.GPTJForCausalLM,
        {"n_embd": 24, "n_head": 4, "n_layer": 3, "n_positions": 32, "rotary_dim": 4},
    ),
    "opt": (
        transformers.OPTForCausalLM,
        {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 3, "ffn_dim": 20}
        | {"max_position_embeddings": 24, "word_embed_proj_dim": 24},
    ),
    "mpt": (transformers.MptForCausalLM, {"d_model": 24, "n_heads": 4, "n_layers": 3, "max_seq_len": 24}),
}


@pytest.fixture(autouse=True, scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = tmp_path_factory.mktemp("guide") / "my_passes.py"
    path.write_text(guide_code(COOKBOOK))
    with pytest.MonkeyPatch.context() as patch, forgotten():
        patch.chdir(COOKBOOK.parents[1])
        load_plugin(path)
        yield


def model_of(family: str) -> Any:
    model_class, sizes = CONFIGS[family]
    return random_model(model_class, model_class.config_class(**SIZES, **sizes), seed=3)


def layers_of(model: Any) -> torch.nn.ModuleList:
    return next(
        module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == LAYERS
    )


def output_projections(model: Any) -> list[torch.nn.Linear]:
    """The linear of each layer that reads what its heads give."""
    names = ("dense", "out_proj")
    found = [
        module
        for name, module in model.named_modules()
        if ("attn" in name or "attention" in name) and name.rpartition(".")[2] in names
    ]
    assert len(found) == LAYERS
    return found


def without_heads(model: Any, heads: tuple[int, ...]) -> Any:
    """The model in which nothing reads what these heads give."""
    with torch.no_grad():
        for linear in output_projections(model):
            for head in heads:
                linear.weight[:, head * WIDTH : (head + 1) * WIDTH] = 0
    return model


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("heads", [(0, 3), (2,), (1, 2, 3)], ids=str)
def test_pruned_heads_are_as_if_nothing_read_them(family: str, heads: tuple[int, ...]) -> None:
    model = model_of(family)
    with saved(model) as folder:
        graph = run_pipeline(lift_folder(folder), f"prune-heads={'+'.join(map(str, heads))}").graph
        left = HEADS - len(heads)
        assert all(cache.type.shape[1] == left for cache, _ in graph.states().values())
        assert not any(op.result.type.shape[1:2] == (HEADS,) for op in graph.find("softmax"))
        assert_same_logits(graph, logits_of(without_heads(model, heads)), vocab=VOCABULARY, seed=1)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_skipped_layer_is_as_if_it_were_not_there(family: str, layer: int) -> None:
    model = model_of(family)
    with saved(model) as folder:
        graph = run_pipeline(lift_folder(folder), f"skip-layers={layer}").graph
        assert (graph.facts["layers"], len(graph.states())) == (LAYERS - 1, 2 * (LAYERS - 1))
        del layers_of(model)[layer]
        assert_same_logits(graph, logits_of(model), vocab=VOCABULARY, seed=1)


def lifted(family: str) -> Graph:
    return llmc.lift(MODELS / f"{family}-tiny", max_batch=2, max_seq=32)


def step_logits(graph: Graph) -> Tensor:
    """The logits of a prompt of two rows, on all ranks of a graph."""
    ranks = VirtualRanks(graph, accumulate=torch.float64)
    ints = {
        "token_ids": [[5, 300, 7, 41], [900, 2, 3, 0]],
        "past_len": [0, 0],
        "new_len": [4, 3],
        "logit_pos": [[3], [2]],
    }
    inputs = {name: torch.tensor(values, dtype=torch.int32) for name, values in ints.items()}
    return ranks(inputs, ranks.empty_states(2, 8))[0]["logits"]


@pytest.mark.parametrize("family", ["gptneox", "gptj", "opt", "mpt"])
@pytest.mark.parametrize("rest", ["tp=2", "tp=2,embed=vocab,pp=2", "merge-linears,fuse-attention,cleanup"])
def test_what_comes_after_computes_the_same(family: str, rest: str) -> None:
    pruned = run_pipeline(lifted(family), "dtype=float32,prune-heads=0+3,skip-layers=1").graph
    changed = run_pipeline(pruned, rest).graph
    torch.testing.assert_close(step_logits(changed), step_logits(pruned), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gptneox", "gptj", "opt", "mpt"])
def test_quantized_weights_stay_so(family: str) -> None:
    """In either order: slices of quantized weights fall between rows that have scales of their own."""
    pruned = run_pipeline(lifted(family), "dtype=float32,prune-heads=0+3").graph
    meant = step_logits(pruned)
    for pipeline in ("dtype=float32,prune-heads=0+3,quant=int8", "dtype=float32,quant=int8,prune-heads=0+3"):
        graph = run_pipeline(lifted(family), pipeline).graph
        error = (step_logits(graph) - meant).norm() / meant.norm()
        assert 0 < error < 0.05, f"{pipeline}: {error:.3f}"
        assert sum(op.kind.name == "dequantize" for op in graph.ops) >= 16


@pytest.mark.parametrize(
    ("family", "passes", "target"),
    [
        ("gptneox", "prune-heads=0+3", "tensorrt-rtx"),
        ("mpt", "prune-heads=1+2,skip-layers=3,quant=int8", "tensorrt-rtx"),
        ("opt", "prune-heads=0+3,quant=int8", "torch"),
        ("gptj", "skip-layers=0,prune-heads=2", "torch"),
    ],
)
def test_engines_compute_what_their_graphs_say(family: str, passes: str, target: str, tmp_path: Path) -> None:
    limits: Any = {"max_batch": 2, "max_seq": 32, "dtype": "float32", "target": target}
    engine = llmc.compile(MODELS / f"{family}-tiny", tmp_path / "engine", passes=passes, **limits)
    assert engine.manifest.model["heads"] == 4 - len(passes.partition("prune-heads=")[2].partition(",")[0].split("+"))
    executor = "emulator" if target == "tensorrt-rtx" else "torch"
    result = llmc.verify(engine.path, random=2, max_new_tokens=3, plans="default", executor=executor)
    assert result.holds


# Facts


WITHOUT_DATA = ["dtype=bfloat16", "merge-linears,fuse-attention,cleanup", "tp=4,embed=vocab", "tp=2,embed=hidden,pp=2"]


@pytest.mark.parametrize("family", ["gptneox", "gptj", "opt", "mpt"])
@pytest.mark.parametrize("passes", [*WITHOUT_DATA, "quant=int8,tp=2,embed=vocab", "quant=int4,merge-linears,pp=2"])
def test_facts_stay_where_the_model_does(family: str, passes: str) -> None:
    graph = lifted(family)
    names = ("parameters", "heads", "kv_heads", "head_dim", "layers")
    changed = run_pipeline(graph, passes).graph
    assert {name: changed.facts[name] for name in names} == {name: graph.facts[name] for name in names}


@pytest.mark.parametrize("family", ["gptneox", "gptj", "opt", "mpt"])
def test_facts_follow_the_graph(family: str) -> None:
    graph = lifted(family)
    left = run_pipeline(graph, "prune-heads=0+3,skip-layers=1,tp=2,embed=vocab").graph
    names = ("heads", "kv_heads", "head_dim", "layers")
    assert [left.facts[name] for name in names] == [2, 2, 32, 3]
    lost = int(graph.facts["parameters"]) - int(left.facts["parameters"])
    heads, layer = 3 * 4 * 2 * 32 * 128, 4 * 128 * 128 + 2 * 128 * 512
    assert 0 <= lost - heads - layer < 3000  # biases, and the norms of the layer


def test_what_a_pass_says_of_a_fact_stands() -> None:
    from compiler.ir.mesh import with_facts

    def says(graph: Graph) -> Graph:
        return with_facts(run_pipeline(graph, "skip-layers=0").graph, layers=7)

    assert run_pipeline(lifted("opt"), [says]).graph.facts["layers"] == 7


# What cannot be done


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ("prune-heads=4", "prune-heads=(4,) must leave some of the heads 0 to 3"),
        ("prune-heads=0+1+2+3", "must leave some of the heads 0 to 3"),
        ("tp=2,prune-heads=0", "prune-heads wants key heads for all query heads"),
        ("skip-layers=9", "skip-layers: there is no layers.9"),
    ],
)
def test_refused(passes: str, message: str) -> None:
    with pytest.raises(PassError) as caught:
        run_pipeline(lifted("opt"), passes)
    assert message in caught.value.message


def test_merged_linears_are_not_pruned_wrongly() -> None:
    with pytest.raises(
        GraphError, match=r"the pass 'prune-heads' fails: the visit of reshape %layers\.0\.attn\.q\.rows from "
    ):
        run_pipeline(lifted("opt"), "merge-linears,prune-heads=0")


def test_a_layer_whose_cache_others_read_does_not_go() -> None:
    with pytest.raises(GraphError, match=r"still uses the cache %cache\.0\.k, which goes"):
        run_pipeline(reusing(2), "skip-layers=0")
