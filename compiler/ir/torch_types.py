"""The bridge between IR element types and torch's."""

import torch

from compiler.errors import GraphError
from compiler.ir.dtypes import DType

_TO_TORCH = {
    DType.f64: torch.float64,
    DType.f32: torch.float32,
    DType.f16: torch.float16,
    DType.bf16: torch.bfloat16,
    DType.f8e4m3: torch.float8_e4m3fn,
    DType.i64: torch.int64,
    DType.i32: torch.int32,
    DType.i8: torch.int8,
    DType.u8: torch.uint8,
    DType.bool: torch.bool,
}
_FROM_TORCH = {value: key for key, value in _TO_TORCH.items()}
_UNPACKED = {DType.i4: torch.int8}


def to_torch(dtype: DType) -> torch.dtype:
    """The torch dtype that holds the values: int8 for i4, which torch lacks."""
    return _UNPACKED.get(dtype) or _TO_TORCH[dtype]


def from_torch(dtype: torch.dtype) -> DType:
    """The IR's element type; GraphError for one that the IR does not have."""
    try:
        return _FROM_TORCH[dtype]
    except KeyError:
        raise GraphError(f"the IR has no element type for {dtype}") from None
