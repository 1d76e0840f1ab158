"""The pass `quant` with rounding to the nearest value, and the choice of linears."""

from pathlib import Path
from typing import Any

import pytest
import torch

import llmc
from compiler.errors import GraphError, PassError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange, Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.mesh import with_facts
from compiler.ir.mesh_weights import weight_report
from compiler.ir.sinking import sink_slices
from compiler.passes import run_pipeline
from compiler.passes.quant import Quantize
from compiler.passes.quant.algorithms.scheme import FloatScheme, IntegerScheme
from compiler.passes.quant.linears.targets import targets
from tests.frontends.steps import lift_folder, random_rows, run_rows

MODELS = Path("examples/models")


def model(*, layers: int = 2, width: int = 32, std: float = 0.5) -> Graph:
    """Linears in a row, and a head."""
    b = Builder("model")
    b.dims["B"] = DimRange(1, 2, 4)
    x = b.input("x", DType.f32, symbol("B"), width)
    for i in range(layers):
        for module in ("up", "down"):
            with b.scope(f"layers.{i}.{module}", f"model.layers.{i}.{module}"):
                key = f"model.layers.{i}.{module}.weight"
                weight = b.random(key=key, dtype=DType.f32, shape=(width, width), std=std, name="weight")
                x = b.linear(x, weight, name="out")
    with b.scope("lm_head", "lm_head"):
        weight = b.random(key="lm_head.weight", dtype=DType.f32, shape=(8, width), name="weight")
        b.output("logits", b.linear(x, weight, name="logits"))
    return b.build()


def quantized(graph: Graph, options: str) -> Graph:
    return run_pipeline(graph, f"quant={options}").graph


def weight_types(graph: Graph) -> dict[str, str]:
    """How each linear's weight is stored, and by how many scales."""
    types = {}
    for op in graph.find("linear"):
        made = graph.producers[op.operands[1].name]
        packed = made.kind.name == "dequantize"
        values = made.operands if packed else made.results
        types[op.name] = " ".join(str(value.type) for value in values)
    return types


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("int8", "i8[32,32] f32[32,1]"),
        ("int8:group=16", "i8[32,32] f32[32,2]"),
        ("int4", "i4[32,32] f32[32,1]"),
        ("int4:group=8", "i4[32,32] f32[32,4]"),
        ("int3:group=8", "i4[32,32] f32[32,4]"),
        ("fp8:act=off", "f8e4m3[32,32] f32[1,1]"),
        ("fp8:act=token:weights=channel", "f8e4m3[32,32] f32[32,1]"),
    ],
)
def test_how_weights_are_stored(options: str, expected: str) -> None:
    types = weight_types(quantized(model(), options))
    assert types.pop("lm_head.logits") == "f32[8,32]"
    assert set(types.values()) == {expected} and len(types) == 4


GRIDS = {
    "int8": IntegerScheme(8),
    "int4:group=8": IntegerScheme(4, 8),
    "int3:group=8": IntegerScheme(3, 8),
    "fp8:act=off": FloatScheme(),
    "fp8:act=off:weights=channel": FloatScheme(whole=False),
}


@pytest.mark.parametrize("options", GRIDS)
def test_weights_are_the_nearest_of_their_grid(options: str) -> None:
    graph = quantized(model(), options)
    seen: dict[str, Any] = {}
    Interpreter(graph, observers=[lambda op, _, results: seen.update({op.name: results[0]})])({"x": torch.ones(1, 32)})
    linear = next(graph.find("linear"))
    weight = seen[next(op for op in graph.find("random")).name]
    found, nearest = seen[linear.operands[1].name], GRIDS[options].nearest(weight).dense()
    # The largest weight of a block may be as near to two values: what counts is how far.
    torch.testing.assert_close((found - weight).abs(), (nearest - weight).abs(), rtol=1e-3, atol=1e-6)
    assert not torch.equal(found, weight)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("int8:skip=layers.0", {"layers.0.up.out", "layers.0.down.out", "lm_head.logits"}),
        ("int8:skip=*.down", {"layers.0.down.out", "layers.1.down.out", "lm_head.logits"}),
        ("int8:only=lm_head", {f"layers.{i}.{m}.out" for i in range(2) for m in ("up", "down")}),
        ("int8:only=layers.*:skip=layers.1+layers.0.up", {"layers.0.up.out", "layers.1.up.out", "layers.1.down.out",
                                                           "lm_head.logits"}),
        ("int8:only=up,quant=int4:only=down", {"lm_head.logits"}),
    ],
)  # fmt: skip
def test_patterns_choose_modules(options: str, left: set[str]) -> None:
    types = weight_types(quantized(model(), options))
    assert {name for name, text in types.items() if text.startswith("f32")} == left


def test_a_second_recipe_takes_what_the_first_left() -> None:
    types = weight_types(quantized(model(), "int8:only=up,quant=int4"))
    assert types["layers.0.up.out"].startswith("i8") and types["layers.0.down.out"].startswith("i4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("int8:skip=layers.0.upp", r"'layers.0.upp' matches no linear"),
        ("int8:only=nothing", "'nothing' matches no linear"),
        ("int8:group=24", "group=24 does not divide the 32 inputs of model.layers.0.up"),
        ("int8:group=-1", "group=-1 is no number of weights"),
        ("int8:skip=*", "no linear left to quantize"),
        ("int8:alpha=0.5", "quant=int8 has no option 'alpha'"),
        ("int4:act=token", "quant=int4 has no option 'act'"),
        ("gptq:bits=5", "3 or 4 or 8 bits, not of 5"),
        ("awq:bits=8", "3 or 4 bits, not of 8"),
        ("smoothquant:act=off", r"'act' of quant=smoothquant is token\|static, not off"),
        ("smoothquant:alpha=1.5", "alpha=1.5 is no part of a whole"),
        ("int8:kl_budget=-1", "kl_budget=-1 is no divergence"),
    ],
)
def test_what_cannot_be_is_said(options: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        quantized(model(), options)


def test_infinite_weights_are_named() -> None:
    graph = quantized(model(std=float("inf")), "int8")
    with pytest.raises(GraphError, match=r"model\.layers\.0\.up.*NaN or infinite"):
        Interpreter(graph)({"x": torch.ones(1, 32)})


def test_rows_of_zeros_stay_zeros() -> None:
    graph = quantized(model(std=0.0), "int8")
    assert Interpreter(graph)({"x": torch.ones(1, 32)})["logits"].abs().max() == 0


def test_the_inputs_of_linears_are_quantized_token_by_token() -> None:
    graph = quantized(model(layers=1), "int8:act=token")
    seen: dict[str, Any] = {}
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [1000.0]])
    Interpreter(graph, observers=[lambda op, _, results: seen.update({op.name: results[0]})])({"x": x})
    op = next(graph.find("linear"))
    rounded = seen[op.operands[0].name]
    assert ((rounded - x).abs() <= x.abs().amax(-1, keepdim=True) / 127 * 0.5001).all() and not torch.equal(rounded, x)


def test_linears_of_one_input_share_its_rounding() -> None:
    graph = run_pipeline(lift_folder(MODELS / "opt-tiny"), "quant=int8:act=token,merge-linears").graph
    assert len({op.operands[0].name for op in graph.find("linear")}) == len(list(graph.find("linear")))
    assert len(list(graph.find("quantize"))) == 4 * 4 + 4 * 6  # inputs, and weights of which three are merged


def test_merged_linears_stay_quantized() -> None:
    graph = sink_slices(run_pipeline(lift_folder(MODELS / "opt-tiny"), "quant=int8,merge-linears").graph)
    assert weight_types(graph)["layers.0.attn.q_k_v"] == "i8[384,128] f32[384,1]"


def test_ranks_store_pieces_of_quantized_weights() -> None:
    graph = lift_folder(MODELS / "opt-tiny")
    plain = weight_report(run_pipeline(graph, "tp=2").graph)
    packed = weight_report(run_pipeline(graph, "quant=int8,tp=2").graph)
    assert packed.total < 0.75 * plain.total


@pytest.mark.parametrize(
    ("options", "bound"), [("int8", 0.02), ("int8:act=token", 0.03), ("int4:group=32", 0.2), ("fp8:act=token", 0.08)]
)
@pytest.mark.parametrize("name", ["opt-tiny", "gptneox-tiny", "gptj-tiny", "mpt-tiny"])
def test_models_say_nearly_the_same(name: str, options: str, bound: float) -> None:
    # The largest of 32 normal weights is about 2.1 deviations, so that a step of 4 bits is 0.28 and a linear loses 8%.
    # The eight linears that write what all layers share lose 8% * sqrt(8) at most, and random tokens lose most.
    graph = lift_folder(MODELS / name)
    rows = random_rows(int(graph.facts["vocab_size"]), 1)
    expected = torch.cat(run_rows(graph, rows))
    found = torch.cat(run_rows(quantized(graph, f"{options},merge-linears,fuse-attention"), rows))
    error = (found - expected).norm() / expected.norm()
    assert 1e-4 < error < bound


def test_options_are_spelt_back() -> None:
    assert run_pipeline(model(), "quant=int8:skip=*.up").canonical == "quant=int8:skip=%2A.up"
    assert [vars(Quantize("awq", **given).recipe)["group"] for given in ({}, {"group": 0})] == [128, 0]


def test_the_head_is_found_behind_other_ops() -> None:
    graph = run_pipeline(lift_folder(MODELS / "gptj-tiny"), "tp=2,embed=vocab").graph
    modules = [target.module for target in targets(graph, Quantize("int8").recipe)]
    assert len(modules) == len(list(graph.find("linear"))) - 1
    assert not [module for module in modules if "lm_head" in module]


@pytest.mark.parametrize("name", ["quant=int8", "kv=int8"])
def test_a_graph_for_several_ranks_is_too_late(name):
    graph = with_facts(run_pipeline(llmc.lift("examples/models/opt-tiny"), "").graph, tp=2)
    with pytest.raises(PassError, match="comes before tp and pp: the graph is for tp=2, pp=1 already"):
        run_pipeline(graph, name)
