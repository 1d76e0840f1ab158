"""Types of values: an element type and a shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compiler.ir.dims import Dim, Shape, element_count, evaluate, parse_dim, shape_text, symbols
from compiler.ir.dtypes import DType


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor of `dtype` elements; `shape` mixes integers and symbolic dims. Text form: `f16[B,S,256]`."""

    dtype: DType
    shape: Shape
    is_fixed: bool = field(init=False, repr=False, compare=False)
    """Whether the shape has no symbols."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_fixed", all(isinstance(dim, int) for dim in self.shape))
        object.__setattr__(self, "_hash", hash((self.dtype, self.shape)))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return f"{self.dtype.value}{shape_text(self.shape)}"

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def elements(self) -> int:
        """Number of elements; GraphError if the shape has symbols."""
        return element_count(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements when stored densely; GraphError if the shape has symbols."""
        return (self.elements * self.dtype.bits + 7) // 8

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of the shape, in order of appearance."""
        return tuple(dict.fromkeys(name for dim in self.shape for name in symbols(dim)))

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape with another element type."""
        return TensorType(dtype, self.shape)

    def with_shape(self, *shape: Dim) -> TensorType:
        """The same element type with another shape."""
        return TensorType(self.dtype, shape)

    def with_dim(self, axis: int, size: Dim) -> TensorType:
        """The same type with another size of one axis; negative axes count from the back."""
        shape = list(self.shape)
        shape[axis] = size
        return TensorType(self.dtype, tuple(shape))

    def sizes(self, bound: Mapping[str, int]) -> tuple[int, ...]:
        """The shape where each symbol has its size."""
        return tuple(evaluate(dim, bound) for dim in self.shape)


def parse_type(text: str) -> TensorType:
    """Inverse of `str`; ValueError for anything else."""
    name, bracket, rest = text.partition("[")
    if not bracket or not rest.endswith("]"):
        raise ValueError(f"{text!r} is no type: write one such as f16[B,S,256]")
    try:
        dtype = DType(name.strip())
    except ValueError:
        raise ValueError(f"{name!r} is no element type; known are {', '.join(d.value for d in DType)}") from None
    inner = rest[:-1].strip()
    return TensorType(dtype, tuple(parse_dim(part.strip()) for part in inner.split(",")) if inner else ())
