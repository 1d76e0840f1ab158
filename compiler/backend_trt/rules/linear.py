"""Linears, over weights of 16 or 32 bits and quantized ones."""

from __future__ import annotations

from math import prod

from compiler.backend_trt.emission import Emission, TrtTensor, emits
from compiler.backend_trt.quantized_weights import block_matrix, weight_form
from compiler.backend_trt.rules.integers import integer_product, limb_product
from compiler.backend_trt.rules.products import product, rounded_product, rows_of, shifted_by
from compiler.backend_trt.rules.shape import reshaped
from compiler.ir.dtypes import DType
from compiler.ir.op import Op

# With more rows than these, a product with 4-bit weights that sums in float32 takes twice as long as one that does not.
_MOST_WIDE_ROWS = 64


@emits("linear")
def _linear(e: Emission, op: Op) -> TrtTensor:
    x, weight, *bias = op.operands
    packed = e.packed.get(weight.name)
    form = weight_form(packed) if packed else "wide"
    if packed and x.name in e.rounded:
        result = integer_product(e, op, packed)
    elif packed and form == "codes" and packed.operands[0].type.dtype is DType.i8 and x.type.is_fixed:
        result = limb_product(e, op, packed)
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
        given, rank = rows_of(e, x), 2
    result = rounded_product(e, given, e.ranked(weight, rank), x.type.dtype)
    if bias:
        result = e.elementwise(result, e.ranked(bias[0], rank), "SUM", "biased")
    return reshaped(e, result, (), op.result.type.shape) if flat else result


def _block_product(e: Emission, op: Op, packed: Op) -> TrtTensor:
    x = op.operands[0]
    dtype, given, matrix = x.type.dtype, rows_of(e, x), block_matrix(e, packed)
    if x.type.is_fixed and prod(x.type.sizes({})[:-1]) <= _MOST_WIDE_ROWS:
        result = rounded_product(e, given, matrix, dtype)
    else:
        result = product(e, given, matrix)
    if (shift := shifted_by(e, x, packed)) is not None:
        # Anything in float32 after the product would keep TensorRT from its kernel for blocks.
        result = e.elementwise(result, e.cast(shift, dtype, "shift.rounded"), "SUB", "shifted")
    return result
