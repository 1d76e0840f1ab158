"""Element types of the IR."""

import builtins
from enum import Enum


class DType(Enum):
    """An element type; its value is the spelling in the text form."""

    f64 = "f64"
    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    f8e4m3 = "f8e4m3"
    i64 = "i64"
    i32 = "i32"
    i8 = "i8"
    u8 = "u8"
    i4 = "i4"
    bool = "bool"

    # Members are singletons, so the identity hash is right, and much faster than Enum's own.
    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return self.value

    @property
    def bits(self) -> int:
        """Width of one element when stored, in bits."""
        return _BITS[self]

    @property
    def is_float(self) -> builtins.bool:
        """Whether the type is a floating-point type."""
        return self in _FLOATS

    @property
    def is_integer(self) -> builtins.bool:
        """Whether the type is an integer type (bool is neither integer nor float)."""
        return not self.is_float and self is not DType.bool


_FLOATS = frozenset({DType.f64, DType.f32, DType.f16, DType.bf16, DType.f8e4m3})
_BITS = {
    DType.f64: 64,
    DType.f32: 32,
    DType.f16: 16,
    DType.bf16: 16,
    DType.f8e4m3: 8,
    DType.i64: 64,
    DType.i32: 32,
    DType.i8: 8,
    DType.u8: 8,
    DType.i4: 4,
    DType.bool: 8,
}

# The spellings that Hugging Face configs and the command line use.
COMPUTE_DTYPES = {"float32": DType.f32, "float16": DType.f16, "bfloat16": DType.bf16}
