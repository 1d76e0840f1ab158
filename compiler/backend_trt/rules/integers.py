"""Products with weights of 8 bits, which TensorRT multiplies as integers or FP8."""

from __future__ import annotations

from math import prod

import torch

from compiler.backend_trt.emission import Emission, TrtTensor
from compiler.backend_trt.quantized_weights import codes_matrix, row_scales
from compiler.backend_trt.rules.products import as_rows, product, rows_of, shifted_by
from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from compiler.ir.torch_types import to_torch

# Measured on an H100: the kernels for fewer rows of integers are slower than those for so many.
_LEAST_ROWS = 16
# Integers on either side of zero that a limb has, and how much less a limb is worth than the one before.
_DIGIT, _BASE = 127.0, 254.0
_DIGITS = {DType.f32: 3, DType.f16: 2, DType.bf16: 2}


def integer_product(e: Emission, op: Op, packed: Op) -> TrtTensor:
    """An input in 8 bits times a weight in 8 bits."""
    x = op.operands[0]
    quantize = e.rounded[x.name]
    result = product(e, _integer_rows(e, quantize), codes_matrix(e, packed))
    result = _taken(e, result, 0, x, op.result)
    scale = quantize.operands[1]
    if scale.name not in e.stored:
        result = e.elementwise(result, rows_of(e, scale), "PROD", "by token")
    return e.cast(_by_row(e, result, packed), op.result.type.dtype, "rounded")


def _integer_rows(e: Emission, op: Op) -> TrtTensor:
    """The rows of an input after a quantize and a dequantize layer; int8 ones at least `_LEAST_ROWS`.

    TensorRT's own layers take scales that are constants. By a scale that a run computes, the rows are divided before,
    and their products multiplied after.
    """

    def make() -> TrtTensor:
        x, scale = op.operands
        given, unit, dtype = e[x], e.one(), DType.f32
        if scale.name in e.stored:
            unit, dtype = e.constant(scale.name, e.source.tensor(scale).float().reshape(())), x.type.dtype
        else:
            inverse = e.elementwise(e.number(1.0, DType.f32, x.type.rank), e[scale], "DIV", "inverse")
            given = e.elementwise(e.cast(given, DType.f32, "f32"), inverse, "PROD", "ratio")
        rows = prod(x.type.sizes({})[:-1]) if x.type.is_fixed else _LEAST_ROWS
        if op.attrs["dtype"] is DType.i8 and rows < _LEAST_ROWS:
            stacked = _stacked(e, [as_rows(e, given, x.type)], rows, x, dtype)
            return _through(e, stacked, unit, op.attrs["dtype"])
        return as_rows(e, _through(e, given, unit, op.attrs["dtype"]), x.type)

    return e.once(("integers", op.name), make)


def limb_product(e: Emission, op: Op, packed: Op) -> TrtTensor:
    """An input of 16 or 32 bits times a weight of 8-bit integers.

    TensorRT has kernels for products of integers, and none for floats with integers. So each row is written as limbs:
    integers from -127 to 127 times its largest absolute value / 127, / 127 / 254, ... The limbs are rows of one
    product, which reads the weight once. Two limbs leave an error of 2**-16 of the largest value, three one of 2**-24.
    (Ootomo, Ozaki, Yokota, 2024, "DGEMM on integer matrix multiplication unit", do so with both factors.)
    """
    x = op.operands[0]
    dtype = x.type.dtype
    limbs, unit = _limbs(e, x)
    result = product(e, limbs, codes_matrix(e, packed))
    total = _taken(e, result, 0, x, op.result)
    for place in range(1, _DIGITS[dtype]):
        part = _taken(e, result, place, x, op.result)
        worth = e.number(_BASE**-place, DType.f32, 2)
        total = e.elementwise(total, e.elementwise(part, worth, "PROD", f"part {place}"), "SUM", f"to part {place}")
    total = e.elementwise(total, unit, "PROD", "by token")
    total = _by_row(e, total, packed)
    if (shift := shifted_by(e, x, packed)) is not None:
        total = e.elementwise(total, shift, "SUB", "shifted")
    return e.cast(total, dtype, "rounded")


def _limbs(e: Emission, x: Value) -> tuple[TrtTensor, TrtTensor]:
    """The limbs of the rows of an input, all first ones before all second ones, and what a first limb is worth."""
    dtype, trt = x.type.dtype, e.trt

    def unit() -> TrtTensor:
        size = e.layer(e.network.add_unary(e.cast(rows_of(e, x), DType.f32, "f32"), trt.UnaryOperation.ABS), "sizes")
        most = e.layer(e.network.add_reduce(size, trt.ReduceOperation.MAX, 0b10, True), "largest")
        most = e.elementwise(most, e.number(torch.finfo(torch.float32).tiny * 2**20, DType.f32, 2), "MAX", "nonzero")
        return e.elementwise(most, e.number(1 / _DIGIT, DType.f32, 2), "PROD", "unit")

    def limbs() -> TrtTensor:
        rest = e.elementwise(e.cast(rows_of(e, x), DType.f32, "f32"), worth, "DIV", "ratio")
        parts: list[TrtTensor] = []
        for place in range(_DIGITS[dtype]):
            if parts:
                left = e.elementwise(rest, parts[-1], "SUB", f"left {place}")
                rest = e.elementwise(left, e.number(_BASE, DType.f32, 2), "PROD", f"rest {place}")
            parts.append(e.layer(e.network.add_unary(rest, trt.UnaryOperation.ROUND), f"limb {place}"))
        rows = prod(x.type.sizes({})[:-1])
        return _through(e, _stacked(e, parts, rows, x, DType.f32), e.one(), DType.i8)

    worth = e.once(("unit", x.name), unit)
    return e.once(("limbs", x.name), limbs), worth


def _stacked(e: Emission, parts: list[TrtTensor], rows: int, x: Value, dtype: DType) -> TrtTensor:
    """Matrices of so many rows one below the other, and zeros below until there are `_LEAST_ROWS`."""
    missing = _LEAST_ROWS - rows * len(parts)
    if missing > 0:
        width = x.type.sizes({})[-1]
        zeros = e.once(
            ("padding", str(missing), str(width), str(dtype)),
            lambda: e.constant(f"zeros/{missing}x{width}.{dtype}", torch.zeros(missing, width, dtype=to_torch(dtype))),
        )
        parts = [*parts, zeros]
    if len(parts) == 1:
        return parts[0]
    layer = e.network.add_concatenation(parts)
    layer.axis = 0
    return e.layer(layer, "stacked", owner=x)


def _through(e: Emission, x: TrtTensor, unit: TrtTensor, dtype: DType) -> TrtTensor:
    """`x` quantized and dequantized by a scale."""
    quantized = e.layer(e.network.add_quantize(x, unit, e.data_type(dtype)), "quantized")
    return e.layer(e.network.add_dequantize(quantized, unit, e.data_type(DType.f32)), "dequantized")


def _taken(e: Emission, stacked: TrtTensor, place: int, x: Value, result: Value) -> TrtTensor:
    """The rows of a product for one limb of `x`, if there are others."""
    if not x.type.is_fixed:
        return stacked
    rows, width = prod(x.type.sizes({})[:-1]), result.type.sizes({})[-1]
    if tuple(stacked.shape) == (rows, width):
        return stacked
    return e.layer(e.network.add_slice(stacked, (place * rows, 0), (rows, width), (1, 1)), f"rows {place}")


def _by_row(e: Emission, product: TrtTensor, packed: Op) -> TrtTensor:
    """A product times the scales of the weight's rows."""
    scales = row_scales(e, packed)
    return product if scales is None else e.elementwise(product, scales, "PROD", "by row")
