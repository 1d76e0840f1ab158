"""The element types of safetensors files, as their headers spell them."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.ir.dtypes import DType

SPELLINGS: Mapping[DType, str] = {
    DType.f64: "F64",
    DType.f32: "F32",
    DType.f16: "F16",
    DType.bf16: "BF16",
    DType.f8e4m3: "F8_E4M3",
    DType.i64: "I64",
    DType.i32: "I32",
    DType.i8: "I8",
    DType.u8: "U8",
    DType.bool: "BOOL",
}
"""The spelling of each element type of the IR, but for i4, which the format does not have."""
_DTYPES = {spelling: dtype for dtype, spelling in SPELLINGS.items()}
# The widths of those that the IR does not have; some buffers that no model reads are of them.
_OTHER_BITS = {"F8_E5M2": 8, "I16": 16, "U16": 16, "U32": 32, "U64": 64}


def dtype_of(spelling: str) -> DType | None:
    """The element type of the IR with that spelling, if there is one."""
    return _DTYPES.get(spelling)


def bits_of(spelling: str) -> int | None:
    """The width of an element in bits; None for a spelling that is not known."""
    dtype = dtype_of(spelling)
    return dtype.bits if dtype else _OTHER_BITS.get(spelling)
