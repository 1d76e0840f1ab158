"""Linears, over weights of 16 or 32 bits and quantized ones."""

from __future__ import annotations

from math import prod

import torch

from compiler.backend_trt.emission import Emission, TrtTensor, emits
from compiler.backend_trt.rules.shape import reshaped
from compiler.backend_trt.weights import block_matrix, codes_matrix, row_scales, row_shifts, weight_form
from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from compiler.ir.torch_types import to_torch

# Measured on an H100: the kernels for fewer rows of integers are slower than those for so many.
_LEAST_ROWS = 16
# With more rows than these, a product with 4-bit weights that sums in float32 takes twice as long as one that does not.
_MOST_WIDE_ROWS = 64
# Integers on either side of zero that a digit has, and how much less a digit is worth than the one before.
_DIGIT, _BASE = 127.0, 254.0
_DIGITS = {DType.f32: 3, DType.f16: 2, DType.bf16: 2}


@emits("linear")
def _linear(e: Emission, op: Op) -> TrtTensor:
    x, weight, *bias = op.operands
    packed = e.packed.get(weight.name)
    form = weight_form(packed) if packed else "wide"
    if packed and x.name in e.rounded:
        result = _integer_product(e, op, packed)
    elif packed and form == "codes" and packed.operands[0].type.dtype is DType.i8 and x.type.is_fixed:
        result = _digit_product(e, op, packed)
    elif packed and form == "blocks":
        result = _block_product(e, op, packed)
    else:
        return _wide_linear(e, op)
    if bias:
        result = e.elementwise(result, e.ranked(bias[0], 2), "SUM", "biased")
    return result if x.type.rank == 2 else reshaped(e, result, (), op.result.type.shape)


def _wide_linear(e: Emission, op: Op) -> TrtTensor:
    x, weight, *bias = op.operands
    shape, rank = x.type.shape, x.type.rank
    given = e[x]
    # Products of matrices have better kernels than products of batches, where their size is known.
    flat = rank > 2 and all(isinstance(dim, int) for dim in shape)
    if flat:
        given, rank = _rows(e, x), 2
    result = _rounded_product(e, given, e.ranked(weight, rank), x.type.dtype)
    if bias:
        result = e.elementwise(result, e.ranked(bias[0], rank), "SUM", "biased")
    return reshaped(e, result, (), op.result.type.shape) if flat else result


def _rounded_product(e: Emission, x: TrtTensor, weight: TrtTensor, dtype: DType) -> TrtTensor:
    """`x weight^T`, summed in float32 and rounded once.

    TensorRT sums products of 16-bit matrices in 16 bits; of matrices that were cast to float32 it sums in float32, and
    reads them as they lie in memory all the same. A bias before the rounding makes it copy them.
    """
    wide = [e.cast(tensor, DType.f32, f"{name}.f32") for name, tensor in (("x", x), ("w", weight))]
    return e.cast(_product(e, *wide), dtype, "rounded")


def _product(e: Emission, x: TrtTensor, weight: TrtTensor) -> TrtTensor:
    kinds = e.trt.MatrixOperation
    return e.layer(e.network.add_matrix_multiply(x, kinds.NONE, weight, kinds.TRANSPOSE), "product")


def _rows(e: Emission, value: Value) -> TrtTensor:
    """An input of linears as a matrix, one row a token."""
    shape = value.type.shape
    if len(shape) == 2:
        return e[value]

    def make() -> TrtTensor:
        layer = e.network.add_shuffle(e[value])
        layer.reshape_dims = (prod(value.type.sizes({})[:-1]) if value.type.is_fixed else -1, shape[-1])
        return e.layer(layer, "rows", owner=value)

    return e.once(("rows", value.name), make)


# Products of integers


def _integer_product(e: Emission, op: Op, packed: Op) -> TrtTensor:
    """An input in 8 bits times a weight in 8 bits."""
    x = op.operands[0]
    quantize = e.rounded[x.name]
    result = _product(e, _integer_rows(e, quantize), codes_matrix(e, packed))
    result = _taken(e, result, 0, x, op.result)
    scale = quantize.operands[1]
    if scale.name not in e.stored:
        result = e.elementwise(result, _rows(e, scale), "PROD", "by token")
    return e.cast(_by_row(e, result, packed), op.result.type.dtype, "rounded")


def _by_row(e: Emission, product: TrtTensor, packed: Op) -> TrtTensor:
    """A product times the scales of the weight's rows."""
    scales = row_scales(e, packed)
    return product if scales is None else e.elementwise(product, scales, "PROD", "by row")


def _integer_rows(e: Emission, op: Op) -> TrtTensor:
    """The rows of an input after a quantize and a dequantize layer, at least `_LEAST_ROWS` where they are counted.

    TensorRT's own layers take scales that are constants. By a scale that a run computes, the rows are divided before,
    and their products multiplied after.
    """

    def make() -> TrtTensor:
        x, scale = op.operands
        given, unit = _rows(e, x), e.one()
        if scale.name in e.stored:
            unit = e.constant(scale.name, e.source.tensor(scale).float().reshape(()))
        else:
            inverse = e.elementwise(e.number(1.0, DType.f32, 2), _rows(e, scale), "DIV", "inverse")
            given = e.elementwise(e.cast(given, DType.f32, "f32"), inverse, "PROD", "ratio")
        if x.type.is_fixed and op.attrs["dtype"] is DType.i8:
            dtype = x.type.dtype if scale.name in e.stored else DType.f32
            given = _stacked(e, [given], prod(x.type.sizes({})[:-1]), x, dtype)
        return _through(e, given, unit, op.attrs["dtype"])

    return e.once(("integers", op.name), make)


def _digit_product(e: Emission, op: Op, packed: Op) -> TrtTensor:
    """An input of 16 or 32 bits times a weight of 8-bit integers.

    TensorRT has kernels for products of integers, and none for floats with integers. So each row is written as digits:
    integers from -127 to 127 times its largest absolute value / 127, / 127 / 254, ... The digits are rows of one
    product, which reads the weight once. Two digits leave an error of 2**-16 of the largest value, three one of 2**-24.
    (Ootomo, Ozaki, Yokota, 2024, "DGEMM on integer matrix multiplication unit", do so with both factors.)
    """
    x = op.operands[0]
    dtype = x.type.dtype
    digits, unit = _digits(e, x)
    result = _product(e, digits, codes_matrix(e, packed))
    total = _taken(e, result, 0, x, op.result)
    for place in range(1, _DIGITS[dtype]):
        part = _taken(e, result, place, x, op.result)
        worth = e.number(_BASE**-place, DType.f32, 2)
        total = e.elementwise(total, e.elementwise(part, worth, "PROD", f"digit {place}"), "SUM", f"to digit {place}")
    total = e.elementwise(total, unit, "PROD", "by token")
    total = _by_row(e, total, packed)
    if (shift := _shifted_by(e, x, packed)) is not None:
        total = e.elementwise(total, shift, "SUB", "shifted")
    return e.cast(total, dtype, "rounded")


def _digits(e: Emission, x: Value) -> tuple[TrtTensor, TrtTensor]:
    """The digits of the rows of an input, all first ones before all second ones, and what a first digit is worth."""
    dtype, trt = x.type.dtype, e.trt

    def unit() -> TrtTensor:
        size = e.layer(e.network.add_unary(e.cast(_rows(e, x), DType.f32, "f32"), trt.UnaryOperation.ABS), "sizes")
        most = e.layer(e.network.add_reduce(size, trt.ReduceOperation.MAX, 0b10, True), "largest")
        most = e.elementwise(most, e.number(torch.finfo(torch.float32).tiny * 2**20, DType.f32, 2), "MAX", "nonzero")
        return e.elementwise(most, e.number(1 / _DIGIT, DType.f32, 2), "PROD", "unit")

    def digits() -> TrtTensor:
        rest = e.elementwise(e.cast(_rows(e, x), DType.f32, "f32"), worth, "DIV", "ratio")
        parts: list[TrtTensor] = []
        for place in range(_DIGITS[dtype]):
            whole = e.layer(e.network.add_unary(rest, trt.UnaryOperation.ROUND), f"whole {place}")
            parts.append(whole)
            left = e.elementwise(rest, whole, "SUB", f"left {place}")
            rest = e.elementwise(left, e.number(_BASE, DType.f32, 2), "PROD", f"rest {place}")
        rows = prod(x.type.sizes({})[:-1])
        return _through(e, _stacked(e, parts, rows, x, DType.f32), e.one(), DType.i8)

    worth = e.once(("unit", x.name), unit)
    return e.once(("digits", x.name), digits), worth


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
    """The rows of a product for one digit of `x`, if there are others."""
    if not x.type.is_fixed:
        return stacked
    rows, width = prod(x.type.sizes({})[:-1]), result.type.sizes({})[-1]
    if tuple(stacked.shape) == (rows, width):
        return stacked
    return e.layer(e.network.add_slice(stacked, (place * rows, 0), (rows, width), (1, 1)), f"rows {place}")


# Products with blocks of 4 bits


def _block_product(e: Emission, op: Op, packed: Op) -> TrtTensor:
    x = op.operands[0]
    dtype, given, matrix = x.type.dtype, _rows(e, x), block_matrix(e, packed)
    if x.type.is_fixed and prod(x.type.sizes({})[:-1]) <= _MOST_WIDE_ROWS:
        result = _rounded_product(e, given, matrix, dtype)
    else:
        result = _product(e, given, matrix)
    if (shift := _shifted_by(e, x, packed)) is not None:
        # Anything in float32 after the product would keep TensorRT from its kernel for blocks.
        result = e.elementwise(result, e.cast(shift, dtype, "shift.rounded"), "SUB", "shifted")
    return result


def _shifted_by(e: Emission, x: Value, packed: Op) -> TrtTensor | None:
    """What zero points take off a product, float32 `[M, N]`: the sums of the input's blocks times `row_shifts`."""
    shifts = row_shifts(e, packed)
    if shifts is None:
        return None
    blocks = tuple(shifts.shape)[1]

    def make() -> TrtTensor:
        layer = e.network.add_shuffle(e.cast(_rows(e, x), DType.f32, "f32"))
        rows = prod(x.type.sizes({})[:-1]) if x.type.is_fixed else -1
        width = x.type.shape[-1]
        assert isinstance(width, int)
        layer.reshape_dims = (rows, blocks, width // blocks)
        cut = e.layer(layer, "blocks", owner=x)
        return e.layer(e.network.add_reduce(cut, e.trt.ReduceOperation.SUM, 0b100, False), "sums", owner=x)

    kinds = e.trt.MatrixOperation
    sums = e.once(("sums", x.name, str(blocks)), make)
    return e.layer(e.network.add_matrix_multiply(sums, kinds.NONE, shifts, kinds.TRANSPOSE), "shift")
