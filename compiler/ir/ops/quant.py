"""Quantization. A quantized tensor is an ordinary one of type i8, i4 or f8e4m3; its scales and zero points are others.

A scale has the rank of the tensor, and each of its dims divides the tensor's: it serves a block of `x.shape[i] /
scale.shape[i]` elements along dim i. So `[1, 1]` is one scale for a weight, `[N, 1]` one for each output channel,
`[N, K / g]` one for each group of g inputs, `[B, S, 1]` one for each token, `[1, heads, 1, 1]` one for each head of a
cache.
"""

from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import op
from compiler.ir.ops.check import axis_of, floating, require
from compiler.ir.types import TensorType

QUANTIZED = frozenset({DType.i8, DType.i4, DType.f8e4m3})


@op
def quantize(x: TensorType, scale: TensorType, zero: TensorType | None = None, *, dtype: DType) -> TensorType:
    """`x / scale + zero` in the nearest value of `dtype` (i8, i4 or f8e4m3), ties to even, cut to its range.

    The quotient is `x * (1 / scale)`, in float32 whatever the types are. The range is -128 to 127, -8 to 7, or -448 to
    448. Scales are positive and finite; NaN becomes 0 in an integer type.
    """
    floating(x)
    require(dtype in QUANTIZED, f"dtype is {dtype}; quantized types are i8, i4 and f8e4m3")
    _check_blocks(x, scale, zero, dtype)
    return x.with_dtype(dtype)


@op
def dequantize(q: TensorType, scale: TensorType, zero: TensorType | None = None, *, dtype: DType) -> TensorType:
    """`(q - zero) * scale`, rounded once, to the floating-point type `dtype`."""
    require(q.dtype in QUANTIZED, f"q is {q}; quantized types are i8, i4 and f8e4m3")
    require(dtype.is_float and dtype not in QUANTIZED, f"dtype is {dtype}, not a type to compute in")
    _check_blocks(q, scale, zero, q.dtype)
    return q.with_dtype(dtype)


@op
def amax(x: TensorType, *, axis: int) -> TensorType:
    """The largest absolute value along `axis`, which stays as a dim of 1."""
    floating(x)
    axis = axis_of(axis, x.rank)
    return x.with_shape(*x.shape[:axis], 1, *x.shape[axis + 1 :])


def _check_blocks(x: TensorType, scale: TensorType, zero: TensorType | None, dtype: DType) -> None:
    floating(scale)
    require(scale.rank == x.rank, f"the scale is {scale}; it must have as many dims as {x}")
    for size, blocks in zip(x.shape, scale.shape, strict=True):
        divides = isinstance(size, int) and isinstance(blocks, int) and blocks > 0 and size % blocks == 0
        require(
            blocks in (1, size) or divides,
            f"scales of shape {shape_text(scale.shape)} do not divide {shape_text(x.shape)} into equal blocks",
        )
    if zero is not None:
        wanted = TensorType(dtype, scale.shape)
        require(dtype.is_integer, f"{dtype} has no zero points")
        require(zero == wanted, f"the zero points are {zero}; they must be {wanted}")
