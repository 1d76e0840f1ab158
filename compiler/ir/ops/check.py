"""Checks that the type rules share."""

from compiler.errors import GraphError
from compiler.ir.dims import Dim, Shape, shape_text
from compiler.ir.dtypes import DType
from compiler.ir.types import TensorType


def require(condition: bool, message: str) -> None:
    """GraphError with `message` unless the condition holds."""
    if not condition:
        raise GraphError(message)


def same_dtype(*types: TensorType) -> DType:
    """The element type that all share."""
    dtype = types[0].dtype
    for other in types[1:]:
        if other.dtype is not dtype:
            raise GraphError(f"operands have different element types: {dtype} and {other.dtype}")
    return dtype


def floating(*types: TensorType) -> DType:
    """The floating-point element type that all share."""
    dtype = same_dtype(*types)
    require(dtype.is_float, f"needs a floating-point tensor, not {dtype}")
    return dtype


def axis_of(axis: int, rank: int) -> int:
    """The axis counted from the front; negative ones count from the back."""
    require(-rank <= axis < rank, f"axis {axis} is outside a tensor of {rank} dimensions")
    return axis % rank


def broadcast_shapes(*shapes: Shape) -> Shape:
    """NumPy's broadcasting: align at the end; dims must agree or be 1."""
    rank = max(map(len, shapes))
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for i, dim in enumerate(shape, rank - len(shape)):
            if result[i] == 1:
                result[i] = dim
            elif dim not in (1, result[i]):
                raise GraphError(f"shapes do not broadcast: {' and '.join(map(shape_text, shapes))}")
    return tuple(result)
