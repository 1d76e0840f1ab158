"""Which element types hold every value of which others."""

from __future__ import annotations

from compiler.ir.dtypes import DType

# Each type with those that hold all of its values, as far as they are of use; the relation is closed below.
_NEXT = {
    DType.bool: (DType.i4, DType.u8),
    DType.i4: (DType.i8, DType.f8e4m3),
    DType.i8: (DType.i32, DType.f16, DType.bf16),
    DType.u8: (DType.i32, DType.f16, DType.bf16),
    DType.i32: (DType.i64, DType.f64),
    DType.f8e4m3: (DType.f16, DType.bf16),
    DType.f16: (DType.f32,),
    DType.bf16: (DType.f32,),
    DType.f32: (DType.f64,),
}


def _above(dtype: DType) -> frozenset[DType]:
    return frozenset({dtype}).union(*(_above(wider) for wider in _NEXT.get(dtype, ())))


_HOLDERS = {dtype: _above(dtype) for dtype in DType}


def holds(wide: DType, narrow: DType) -> bool:
    """Whether `wide` holds every value of `narrow`."""
    return wide in _HOLDERS[narrow]
