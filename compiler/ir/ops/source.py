"""Ops without operands: where constants come from."""

from compiler.ir.dims import Dim, Shape
from compiler.ir.dtypes import DType
from compiler.ir.op import op
from compiler.ir.ops.check import require
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType


@op
def const(*, data: TensorRef) -> TensorType:
    """The tensor of a file that `data` points at."""
    return data.type


@op
def random(*, key: str, dtype: DType, shape: tuple[Dim, ...], mean: float = 0.0, std: float = 0.02) -> TensorType:
    """Reproducible noise in place of a weight: each element near `mean` with standard deviation `std`, fixed by `key`.

    The values are uniform, and repeat with a long period: they stand for weights where only shapes matter.
    """
    require(dtype.is_float, f"random values are floating-point, not {dtype}")
    return _fixed(TensorType(dtype, shape))


@op
def literal(*, dtype: DType, shape: tuple[Dim, ...], values: tuple[float, ...]) -> TensorType:
    """The given `values` in row-major order, or one value for every element."""
    result = _fixed(TensorType(dtype, shape))
    require(
        len(values) in (1, result.elements),
        f"a literal of {result.elements} elements has one value or {result.elements}, not {len(values)}",
    )
    return result


@op
def iota(*, size: Dim, dtype: DType = DType.i32) -> TensorType:
    """`0, 1, ..., size-1`."""
    require(dtype.is_integer, f"iota counts in integers, not {dtype}")
    return TensorType(dtype, (size,))


def _fixed(result: TensorType) -> TensorType:
    shape: Shape = result.shape
    require(all(isinstance(dim, int) and dim >= 0 for dim in shape), f"{result} needs a fixed shape")
    return result
