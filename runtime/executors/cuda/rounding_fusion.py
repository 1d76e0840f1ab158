"""Activations rounded to 8 bits in one call: the scale of each token, the integers, and the values that they stand for.

x -> (cast -> amax -> scale -> clamp) -> quantize -> dequantize -> linears

Where all linears have weights of the same 8-bit type, the integers and scales are handed on to their products, which
multiply them; else the rounded values are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from compiler.ir.torch_types import to_torch
from runtime.executors.cuda.dataflow import Dataflow
from runtime.executors.cuda.kernels.rounding import WIDEST, Rounded, RowScale, quantize_rows, round_rows
from runtime.executors.cuda.product_fusion import takes_rounded
from runtime.executors.torch.lowering import Fusion, Lowering

_LAST = (-1, 2)
"""The axis of the values of a token."""


@dataclass(frozen=True)
class _Rounding:
    """What rounds activations.

    Attributes:
        ops: all ops.
        read: what dequantizes.
        write: what quantizes.
        scale: a stored scale, or how a token has its own.
    """

    ops: tuple[Op, ...]
    read: Op
    write: Op
    scale: Value | RowScale


def rounding_fusions(flow: Dataflow) -> Iterator[Fusion]:
    """A fusion for each value `[1, T, K]` that is rounded with a stored scale, or one for each token.

    They come before those of products, which ask which values are handed on as 8-bit numbers.
    """
    for op in flow.graph.find("dequantize"):
        if op.name not in flow.packed and op.name not in flow.claimed and (found := _rounding(flow, op)) is not None:
            narrow = _stays_narrow(flow, found)
            if narrow:
                flow.rounded.add(op.result.name)
            yield Fusion("rounding to 8 bits" if narrow else "rounding", flow.claim(found.ops), _lines(found, narrow))


def _stays_narrow(flow: Dataflow, found: _Rounding) -> bool:
    """Whether all users of rounded values multiply the 8-bit numbers themselves."""
    value, dtype = found.read.result, found.write.attrs["dtype"]
    by_column = isinstance(found.scale, Value) and found.scale.type.shape[-1] != 1
    users = flow.users(value)
    return (
        not by_column
        and not flow.is_output(value)
        and bool(users)
        and all(user.operands[0] == value and takes_rounded(flow, user, dtype) for user in users)
    )


def _rounding(flow: Dataflow, read: Op) -> _Rounding | None:
    q, scale, *zero = read.operands
    write = flow.maker(q, "quantize")
    if zero or write is None or len(write.operands) != 2 or write.operands[1] != scale or not flow.only_user(q):
        return None
    width = q.type.shape[-1]
    if q.type.dtype not in (DType.i8, DType.f8e4m3) or len(q.type.shape) != 3 or not _is_at_most(width, WIDEST):
        return None
    if scale.name in flow.constant:
        columns = all(dim == 1 for dim in scale.type.shape[:-1]) and scale.type.shape[-1] in (1, width)
        return _Rounding((read, write), read, write, scale) if columns else None
    found = _own_scale(flow, write.operands[0], scale)
    return None if found is None else _Rounding((read, write, *found[0]), read, write, found[1])


def _is_at_most(dim: object, most: int) -> bool:
    return isinstance(dim, int) and dim <= most


def _own_scale(flow: Dataflow, x: Value, scale: Value) -> tuple[list[Op], RowScale] | None:
    """The ops from the values to the scale of each token, and what they compute; None if they do not."""
    if len(flow.users(scale)) != 2:
        return None
    ops: list[Op] = []
    value = scale
    for kind in ("clamp", "scale", "amax"):
        op = flow.maker(value, kind)
        if op is None or (ops and not flow.only_user(value)):
            return None
        ops.append(op)
        value = op.operands[0]
    clamp, factor, amax = ops
    cast = flow.maker(value, "cast")
    if cast is not None and flow.only_user(value):
        ops.append(cast)
        value = cast.operands[0]
    if value != x or amax.attrs["axis"] not in _LAST:
        return None
    return ops, RowScale(factor.attrs["factor"], clamp.attrs["min"], clamp.attrs["max"])


class RoundingCall:
    """`round_rows`, or if `narrow` `quantize_rows`, with what is the same in every step."""

    def __init__(self, dtype: torch.dtype, scale: Tensor | RowScale, narrow: bool) -> None:
        self.dtype, self.scale, self.narrow = dtype, scale, narrow

    def __call__(self, x: Tensor) -> Tensor | Rounded:
        """`x [1, T, K]`, rounded: of that shape, or 8-bit numbers and scales."""
        rows = x.squeeze(0)
        if self.narrow:
            return quantize_rows(rows, self.dtype, self.scale)
        return round_rows(rows, self.dtype, self.scale).unsqueeze(0)


def _lines(found: _Rounding, narrow: bool) -> Callable[[Lowering], Sequence[str]]:
    def lines(state: Lowering) -> Sequence[str]:
        known = found.scale
        scale = state.load(known).to(state.device, torch.float32).reshape(-1) if isinstance(known, Value) else known
        call = RoundingCall(to_torch(found.write.attrs["dtype"]), scale, narrow)
        name = state.hold(f"{found.read.name}.rounding", call)
        return [f"{state.ref(found.read.result)} = {name}({state.ref(found.write.operands[0])})"]

    return lines
