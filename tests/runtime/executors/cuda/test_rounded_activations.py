"""Activations that are rounded to 8 bits while the model runs are rounded as by the interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.paged import paged
from compiler.ir.rewrite import RewriteBuilder, eliminate_dead, sweep
from llmc.verification.tolerance import unrounded
from runtime.executors.cuda.executor import CudaExecutor
from runtime.executors.interpreter import InterpreterExecutor
from tests.paged_schedules import blocks_needed, largest_error, packed_logits
from tests.runtime.executors.cuda.test_executor import CPU, EXACT, SHORT, VOCAB, made, stored

LARGEST = {DType.i8: 127, DType.f8e4m3: 448}
STORED = 0.05
"""A scale by which int8 reaches 6: activations of the models are about as large."""


def with_stored_scales(graph: Graph) -> Graph:
    """One scale for all tokens instead of one for each, as calibration would choose."""

    def visit(op: Op, b: RewriteBuilder) -> Value | None:
        if op.kind.name != "clamp" or not all(user.kind.name.endswith("quantize") for user in graph.users[op.name]):
            return None
        return b.literal(dtype=DType.f32, shape=(1, 1, 1), values=(STORED,))

    return eliminate_dead(sweep(graph, visit, retype=True))


def moved(graph: Graph, share: float) -> Graph:
    """Everything that is rounded is first moved by a share of the largest value that its token's integers stand for."""

    def visit(op: Op, b: RewriteBuilder) -> Value | None:
        if op.kind.name != "quantize":
            return None
        x, scale = op.operands
        shift = b.scale(scale, factor=share * LARGEST[op.attrs["dtype"]])
        return b.quantize(b.add(x, shift), scale, **op.attrs)

    return sweep(graph, visit)


def interpreted(graph: Graph) -> list[Tensor]:
    """The logits of all steps."""
    return packed_logits(InterpreterExecutor(graph).open_paged(blocks_needed(SHORT)), SHORT, VOCAB)


@pytest.mark.parametrize("passes", ["quant=int8:act=token", "quant=fp8:act=token", "stored"])
@pytest.mark.parametrize("family", ["gpt_neox", "gptj"])
def test_activations_are_rounded_as_by_the_interpreter(tmp_path: Path, family: str, passes: str) -> None:
    """Sums in another order may be off by `EXACT`, by which values near the bound of two codes get the other one.

    The bound is what that does to the logits if it happens to all values that are so near, those above or those below.
    It must be less than what rounding costs, or it would allow not to round at all.
    """
    graph = made(family, "quant=int8:act=token" if passes == "stored" else passes, tmp_path)
    if passes == "stored":
        place = tmp_path / "stored"
        place.mkdir()
        graph = stored(with_stored_scales(graph), place)
    graph = paged(graph, SHORT.block)
    executor = CudaExecutor(graph, device=CPU)
    assert {fusion.name for fusion in executor.fusions} >= {"rounding to 8 bits"}
    expected = interpreted(graph)
    bound = EXACT + max(largest_error(interpreted(moved(graph, sign * EXACT)), expected) for sign in (1, -1))
    plain = unrounded(graph)
    assert plain is not None
    assert bound < largest_error(interpreted(plain), expected)
    assert largest_error(packed_logits(executor.open_paged(blocks_needed(SHORT)), SHORT, VOCAB), expected) < bound
