"""What the rules of linears share: inputs as matrices, products, and what zero points take off them."""

from __future__ import annotations

from math import prod

from compiler.backend_trt.emission import Emission, TrtTensor
from compiler.backend_trt.quantized_weights import row_shifts
from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from compiler.ir.types import TensorType


def rows_of(e: Emission, value: Value) -> TrtTensor:
    """A value as a matrix, one row a token."""
    return e.once(("rows", value.name), lambda: as_rows(e, e[value], value.type))


def as_rows(e: Emission, tensor: TrtTensor, type_: TensorType) -> TrtTensor:
    """A tensor as a matrix, one row a token."""
    if type_.rank == 2:
        return tensor
    layer = e.network.add_shuffle(tensor)
    layer.zero_is_placeholder = False  # a dim of 0 has no elements
    layer.reshape_dims = (prod(type_.sizes({})[:-1]) if type_.is_fixed else -1, type_.shape[-1])
    return e.layer(layer, "rows")


def product(e: Emission, x: TrtTensor, weight: TrtTensor) -> TrtTensor:
    """`x weight^T`, in the type of both."""
    kinds = e.trt.MatrixOperation
    return e.layer(e.network.add_matrix_multiply(x, kinds.NONE, weight, kinds.TRANSPOSE), "product")


def rounded_product(e: Emission, x: TrtTensor, weight: TrtTensor, dtype: DType) -> TrtTensor:
    """`x weight^T`, summed in float32 and rounded once.

    TensorRT sums products of 16-bit matrices in 16 bits; of matrices that were cast to float32 it sums in float32, and
    reads them as they lie in memory all the same. A bias before the rounding makes it copy them.
    """
    wide = [e.cast(tensor, DType.f32, f"{name}.f32") for name, tensor in (("x", x), ("w", weight))]
    return e.cast(product(e, *wide), dtype, "rounded")


def shifted_by(e: Emission, x: Value, packed: Op) -> TrtTensor | None:
    """What zero points take off a product, float32 `[M, N]`: the sums of the input's blocks times `row_shifts`."""
    shifts = row_shifts(e, packed)
    if shifts is None:
        return None
    blocks = tuple(shifts.shape)[1]

    def make() -> TrtTensor:
        layer = e.network.add_shuffle(e.cast(rows_of(e, x), DType.f32, "f32"))
        rows = prod(x.type.sizes({})[:-1]) if x.type.is_fixed else -1
        width = x.type.shape[-1]
        assert isinstance(width, int)
        layer.reshape_dims = (rows, blocks, width // blocks)
        cut = e.layer(layer, "blocks", owner=x)
        return e.layer(e.network.add_reduce(cut, e.trt.ReduceOperation.SUM, 0b100, False), "sums", owner=x)

    kinds = e.trt.MatrixOperation
    sums = e.once(("sums", x.name, str(blocks)), make)
    return e.layer(e.network.add_matrix_multiply(sums, kinds.NONE, shifts, kinds.TRANSPOSE), "shift")
