"""Elementwise ops. Operands broadcast as in NumPy and share one element type; the result has it too."""

from compiler.ir.dtypes import DType
from compiler.ir.op import op
from compiler.ir.ops.check import broadcast_shapes, floating, require, same_dtype
from compiler.ir.types import TensorType


def _arithmetic(a: TensorType, b: TensorType) -> TensorType:
    dtype = same_dtype(a, b)
    require(dtype is not DType.bool, "arithmetic on bool; cast first")
    return TensorType(dtype, broadcast_shapes(a.shape, b.shape))


def _comparison(a: TensorType, b: TensorType) -> TensorType:
    same_dtype(a, b)
    return TensorType(DType.bool, broadcast_shapes(a.shape, b.shape))


@op
def add(a: TensorType, b: TensorType) -> TensorType:
    """`a + b`."""
    return _arithmetic(a, b)


@op
def sub(a: TensorType, b: TensorType) -> TensorType:
    """`a - b`."""
    return _arithmetic(a, b)


@op
def mul(a: TensorType, b: TensorType) -> TensorType:
    """`a * b`."""
    return _arithmetic(a, b)


@op
def div(a: TensorType, b: TensorType) -> TensorType:
    """`a / b`, floating-point only."""
    floating(a, b)
    return _arithmetic(a, b)


@op
def less(a: TensorType, b: TensorType) -> TensorType:
    """`a < b`."""
    return _comparison(a, b)


@op
def less_equal(a: TensorType, b: TensorType) -> TensorType:
    """`a <= b`."""
    return _comparison(a, b)


@op
def logical_and(a: TensorType, b: TensorType) -> TensorType:
    """`a and b` of bools."""
    require(same_dtype(a, b) is DType.bool, "logical_and takes bools")
    return TensorType(DType.bool, broadcast_shapes(a.shape, b.shape))


@op
def where(condition: TensorType, a: TensorType, b: TensorType) -> TensorType:
    """`a` where `condition` holds, else `b`."""
    require(condition.dtype is DType.bool, f"the condition is {condition.dtype}, not bool")
    return TensorType(same_dtype(a, b), broadcast_shapes(condition.shape, a.shape, b.shape))


@op
def scale(x: TensorType, *, factor: float) -> TensorType:
    """`x * factor`."""
    floating(x)
    return x


@op
def clamp(x: TensorType, *, min: float, max: float) -> TensorType:
    """`x` limited to `[min, max]`."""
    require(min <= max, f"min {min} is above max {max}")
    return x


@op
def cast(x: TensorType, *, dtype: DType) -> TensorType:
    """`x` in another element type: to a float, round to nearest even; float to integer, toward zero."""
    return x.with_dtype(dtype)


@op
def relu(x: TensorType) -> TensorType:
    """`max(x, 0)`."""
    floating(x)
    return x


@op
def gelu(x: TensorType, *, tanh: bool = False) -> TensorType:
    """`x * Phi(x)`, Phi the normal distribution function; with `tanh`, its approximation (Hendrycks & Gimpel, 2016)."""
    floating(x)
    return x


@op
def silu(x: TensorType) -> TensorType:
    """`x * sigmoid(x)`."""
    floating(x)
    return x


@op
def sigmoid(x: TensorType) -> TensorType:
    """`1 / (1 + exp(-x))`."""
    floating(x)
    return x


@op
def tanh(x: TensorType) -> TensorType:
    """Hyperbolic tangent."""
    floating(x)
    return x


@op
def cos(x: TensorType) -> TensorType:
    """Cosine of radians."""
    floating(x)
    return x


@op
def sin(x: TensorType) -> TensorType:
    """Sine of radians."""
    floating(x)
    return x
