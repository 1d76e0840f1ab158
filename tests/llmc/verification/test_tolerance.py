"""How far logits may differ before rounding does not explain it."""

from __future__ import annotations

import pytest
import torch

import llmc
from compiler.ir.builder import Builder
from compiler.ir.comparison import relative_error
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.rewrite import sweep
from compiler.passes import run_pipeline
from compiler.passes.quant.calibration.source import CalibrationSource
from compiler.passes.quant.calibration.windows import step_inputs
from llmc.verification.compare import Reference
from llmc.verification.tolerance import logits_tolerance, unrounded
from tests.paths import MODELS

MODEL = MODELS / "opt-tiny"
PROMPT, TOKENS = [3, 100, 200], [(37 * i) % 1000 for i in range(20)]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def quantized(passes: str) -> Graph:
    ids = torch.randint(1000, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    with CalibrationSource(documents=[tuple(ids)], samples=2, length=32, device="cpu").active():
        return run_pipeline(llmc.lift(MODEL), f"dtype=float32,{passes}").graph


def logits(graph: Graph) -> torch.Tensor:
    return Interpreter(graph)(step_inputs(graph, torch.tensor([PROMPT], dtype=torch.int32)))["logits"]


@pytest.mark.parametrize(
    ("passes", "rest"),
    [
        ("quant=int8:act=token", "quant=int8"),
        ("quant=fp8:weights=channel,kv=fp8", "quant=fp8:weights=channel:act=off"),
        ("kv=int8", "cleanup"),
    ],
)
def test_what_is_quantized_at_run_time_is_left_out_and_weights_stay(passes, rest):
    plain = unrounded(quantized(passes))
    assert plain is not None
    assert unrounded(plain) is None
    expected = quantized(rest)
    assert {value.name: value.type for value in plain.inputs} == {value.name: value.type for value in expected.inputs}
    assert torch.equal(logits(plain), logits(expected))


def test_weights_alone_are_not_rounded_at_run_time():
    assert unrounded(quantized("quant=int4:group=32")) is None
    assert Reference(quantized("quant=int8")).rounding(PROMPT, TOKENS) == 0.0


@pytest.mark.parametrize("passes", ["quant=int8:act=token:group=32", "quant=fp8", "quant=smoothquant,kv=int8"])
def test_sums_in_another_order_change_no_more_than_is_said(passes):
    """The claim behind it: of two right computations, here with sums in float32 and in float64."""
    graph = quantized(passes)
    ours, other = Reference(graph), Reference(graph, accumulate=torch.float64)
    found = relative_error(other.logits(PROMPT, TOKENS), ours.logits(PROMPT, TOKENS))
    assert found < ours.rounding(PROMPT, TOKENS)


def test_a_difference_in_the_last_bit_can_become_a_whole_step():
    """Why more is allowed at all. Whether it happens in a model depends on the order in which a CPU adds."""
    b = Builder("rounded")
    x, scale = b.input("x", DType.f32, 1, 2), b.literal(dtype=DType.f32, shape=(1, 1), values=(1.0,))
    b.output("y", b.dequantize(b.quantize(x, scale, dtype=DType.i8), scale, dtype=DType.f32))
    rounded = Interpreter(b.build())
    below, above = torch.tensor([[127.0, 2.5]]), torch.tensor([[127.0, 2.5 + 2**-22]])
    assert 0 < relative_error(above, below) < 1e-8
    found, expected = (rounded({"x": x})["y"] for x in (above, below))
    assert found[0, 1] - expected[0, 1] == 1.0
    assert relative_error(found, expected) > logits_tolerance("float32", 4)


def test_a_wrong_scale_is_more_than_that():
    """Scales of half the size cut off what is large."""
    graph = quantized("quant=int8:act=static")

    def visit(op, b):
        if op.kind.name != "literal" or not op.name.endswith("x.scale"):
            return None
        return b.literal(**{**op.attrs, "values": (op.attrs["values"][0] / 2,)})

    right, wrong = Reference(graph), Reference(sweep(graph, visit))
    assert relative_error(wrong.logits(PROMPT, TOKENS), right.logits(PROMPT, TOKENS)) > right.rounding(PROMPT, TOKENS)


def test_coarser_types_and_more_layers_allow_more():
    assert logits_tolerance("float32", 4) < logits_tolerance("float16", 4) < logits_tolerance("float16", 16)
