"""Linears and quantized values.

A weight of 4 bits whose scales serve blocks of 16 inputs or more is multiplied by `MatMulNBits` of onnxruntime, which
never makes the weight as a whole; one of 8 bits too, if inputs may be rounded: with exact ones that kernel takes longer
than a product of floats. Any other weight is dequantized when the model is loaded, by the nodes that say what that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from llmc_onnx.data_file import Array
from llmc_onnx.emission import MICROSOFT, Emission, emits
from llmc_onnx.rules import rounded
from llmc_onnx.types import ELEMENT_TYPES

_SMALLEST_BLOCK, _LARGEST_BLOCK = 16, 128
_RANGES = {DType.i8: (-128, 127), DType.f8e4m3: (-448, 448)}


@emits("linear")
def _linear(e: Emission, op: Op) -> str:
    x, weight, *bias = op.operands
    packed = e.packed.get(weight.name)
    blocks = _blocks_of(packed, e.round_inputs) if packed is not None else None
    if packed is not None and blocks is not None:
        return _by_blocks(e, op, packed, blocks)
    out, width = weight.type.sizes({})
    rows = e.reshape(e.wide(x), (-1, width), "rows") if x.type.rank != 2 else e.wide(x)
    y = e.node("Gemm", rows, e.wide(weight), *map(e.wide, bias), transB=1, name="product")
    if x.type.rank != 2:
        y = e.reshape(y, (*x.type.shape[:-1], out), "y")
    return rounded(e, op, y)


class _Blocks(NamedTuple):
    """How `MatMulNBits` takes a weight.

    Attributes:
        bits: 4 or 8.
        size: how many inputs share a scale.
        each: how many such blocks a row has.
    """

    bits: int
    size: int
    each: int


def _blocks_of(packed: Op, round_inputs: bool) -> _Blocks | None:
    """None for a weight that `MatMulNBits` does not take, or not well."""
    q, scale, *_ = packed.operands
    taken = (DType.i4, DType.i8) if round_inputs else (DType.i4,)
    if q.type.dtype not in taken or q.type.rank != 2:
        return None
    width = q.type.sizes({})[1]
    shared = width // scale.type.sizes({})[1]
    size = min(shared & -shared, _LARGEST_BLOCK)  # the largest power of 2 that divides it
    return _Blocks(q.type.dtype.bits, size, width // size) if size >= _SMALLEST_BLOCK else None


def _by_blocks(e: Emission, op: Op, packed: Op, blocks: _Blocks) -> str:
    x, weight, *bias = op.operands
    q, scale, *zero = packed.operands
    (out, width), name = q.type.sizes({}), weight.name
    grid, bytes_each = (out, blocks.each), blocks.size * blocks.bits // 8
    inputs = [
        e.wide(x),
        e.repacked(f"{name}.packed", TensorProto.UINT8, (*grid, bytes_each), lambda: _pack(e, q, blocks.bits, grid)),
        e.repacked(f"{name}.scales", TensorProto.FLOAT, grid, lambda: _spread(e, scale, grid).astype(np.float32)),
    ]
    if zero:
        per_row = -(-blocks.each * blocks.bits // 8)
        shape = (out, per_row)
        inputs.append(
            e.repacked(f"{name}.zeros", TensorProto.UINT8, shape, lambda: _zeros(e, zero[0], blocks.bits, grid))
        )
    if bias:
        inputs += [""] * (5 - len(inputs)) + [e.wide(bias[0])]
    y = e.node(
        "MatMulNBits", *inputs, domain=MICROSOFT, K=width, N=out, bits=blocks.bits, block_size=blocks.size,
        accuracy_level=4 if e.round_inputs else 1, name="product",
    )  # fmt: skip
    return rounded(e, op, y)


def _pack(e: Emission, q: Value, bits: int, grid: tuple[int, int]) -> Array:
    """The integers of each block side by side; in place of a sign, half of their range is added to them."""
    values = e.load(q).numpy().reshape(*grid, -1)
    return _nibbles(_unsigned(values, bits), bits)


def _zeros(e: Emission, zero: Value, bits: int, grid: tuple[int, int]) -> Array:
    """The zero points of each row side by side, as its integers are."""
    return _nibbles(_unsigned(_spread(e, zero, grid), bits), bits)


def _unsigned(values: Array, bits: int) -> Array:
    return (values.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)


def _nibbles(values: Array, bits: int) -> Array:
    """Integers of 4 bits, two to a byte along the last axis, the first in the low half; others as they are."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], -1)
    packed: Array = values[..., ::2] | values[..., 1::2] << 4
    return packed


def _spread(e: Emission, value: Value, grid: tuple[int, int]) -> Array:
    """Scales or zero points, one for each block of each row."""
    stored = e.load(value)
    array: Array = (stored.float() if value.type.dtype.is_float else stored).numpy().reshape(value.type.sizes({}))
    for axis, size in enumerate(grid):
        array = np.repeat(array, size // array.shape[axis], axis)
    return array


@emits("quantize")
def _quantize(e: Emission, op: Op) -> str:
    """`x * (1 / scale) + zero`, rounded to even and cut."""
    x, scale, *zero = op.operands
    factor = e.node("Reciprocal", e.wide(scale), name="factor")
    y = e.node("Mul", e.wide(x), _repeated(e, factor, scale, x), name="quotient")
    dtype = op.attrs["dtype"]
    if dtype is not DType.f8e4m3:
        y = e.node("Round", y)
        if zero:
            y = e.node("Add", y, _repeated(e, e.wide(zero[0]), zero[0], x), name="shifted")
    low, high = (e.constant(bound, DType.f32) for bound in _RANGES[dtype])
    return str(e.node("Cast", e.node("Clip", y, low, high, name="cut"), to=ELEMENT_TYPES[dtype]))


@emits("dequantize")
def _dequantize(e: Emission, op: Op) -> str:
    """`(q - zero) * scale`, rounded once."""
    q, scale, *zero = op.operands
    wide = _number(e, q)
    if zero:
        wide = e.node("Sub", wide, _repeated(e, _number(e, zero[0]), zero[0], q), name="centred")
    return rounded(e, op, e.node("Mul", wide, _repeated(e, e.wide(scale), scale, q)))


def _number(e: Emission, value: Value) -> str:
    """A quantized value in float32; integers of 4 bits are stored as such of 8."""
    stored = DType.i8 if value.type.dtype is DType.i4 else value.type.dtype
    return e.cast(e[value], stored, DType.f32)


def _repeated(e: Emission, name: str, scale: Value, x: Value) -> str:
    """What serves blocks of `x`, such that it broadcasts to `x`."""
    sizes: Sequence[Any] = scale.type.shape
    for axis, (size, blocks) in enumerate(zip(x.type.shape, scale.type.shape, strict=True)):
        if blocks in (1, size):
            continue
        before, after = sizes[:axis], sizes[axis + 1 :]
        column = e.reshape(name, (*before, blocks, 1, *after), "column")
        spread = e.node("Expand", column, e.shape((*before, blocks, size // blocks, *after)), name="spread")  # type: ignore[operator]
        sizes = (*before, size, *after)
        name = e.reshape(spread, sizes, "repeated")
    return name
