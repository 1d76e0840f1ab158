"""Activations rounded to 8 bits in one call: the scale of each token, the integers, and the values that they stand for.

    x -> cast -> amax -> scale -> clamp -> quantize -> dequantize -> linears

Products whose time is that of reading their weights take the rounded values as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.op import Op
from runtime.executors.cuda.dataflow import Dataflow
from runtime.executors.cuda.kernels.rounding import round_rows
from runtime.executors.torch.lowering import Fusion, Lowering


def rounding_fusions(flow: Dataflow) -> Iterator[Fusion]:
    """A fusion for each value that is rounded with a scale for each token."""
    for op in flow.graph.find("dequantize"):
        if op.name in flow.packed or op.name in flow.claimed or len(op.operands) != 2:
            continue
        ops = _chain(flow, op)
        if ops is not None:
            yield Fusion("rounding", flow.claim(ops), _lines(ops, op))


def _chain(flow: Dataflow, read: Op) -> tuple[Op, ...] | None:
    """The ops from the cast to the dequantize, if they are those of a scale for each token."""
    q, scale = read.operands
    write = flow.maker(q, "quantize")
    if write is None or len(write.operands) != 2 or write.operands[1] != scale or not flow.only_user(q):
        return None
    if len(flow.users(scale)) != 2 or q.type.dtype not in (DType.i8, DType.f8e4m3) or len(q.type.shape) != 3:
        return None
    ops = [read, write]
    value = scale
    for kinds in (("clamp",), ("scale",), ("amax",)):
        op = flow.maker(value, *kinds)
        if op is None or (value != scale and not flow.only_user(value)):
            return None
        ops.append(op)
        value = op.operands[0]
    if ops[-1].attrs["axis"] not in (-1, 2):
        return None
    cast = flow.maker(value, "cast")
    if cast is not None and flow.only_user(value):
        ops.append(cast)
        value = cast.operands[0]
    return tuple(ops) if value == write.operands[0] else None


class RoundingCall:
    """`round_rows` with what is the same in every step."""

    def __init__(self, dtype: DType, factor: float, least: float, most: float) -> None:
        self.dtype, self.factor, self.least, self.most = dtype, factor, least, most

    def __call__(self, x: Tensor) -> Tensor:
        """`x [1, T, K]`, rounded."""
        return round_rows(x.squeeze(0), self.dtype, self.factor, self.least, self.most).unsqueeze(0)


def _lines(ops: Sequence[Op], read: Op) -> Callable[[Lowering], Sequence[str]]:
    by_kind = {op.kind.name: op for op in ops}

    def lines(state: Lowering) -> Sequence[str]:
        write, clamp = by_kind["quantize"], by_kind["clamp"]
        limits = clamp.attrs["min"], clamp.attrs["max"]
        call = RoundingCall(write.attrs["dtype"], by_kind["scale"].attrs["factor"], *limits)
        name = state.hold(f"{read.name}.rounding", call)
        return [f"{state.ref(read.result)} = {name}({state.ref(write.operands[0])})"]

    return lines
