"""TensorRT's element types, and those of the IR and of torch that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from compiler.ir.dtypes import DType

if TYPE_CHECKING:
    import torch


class DataType(Enum):
    """An element type, named as in `tensorrt.DataType`; records and engines name types so."""

    FLOAT = DType.f32
    HALF = DType.f16
    BF16 = DType.bf16
    INT32 = DType.i32
    INT64 = DType.i64
    BOOL = DType.bool
    INT8 = DType.i8
    UINT8 = DType.u8
    FP8 = DType.f8e4m3
    INT4 = DType.i4
    FP4 = "e2m1"
    E8M0 = "e8m0"

    @property
    def dtype(self) -> DType | None:
        """The IR's element type; None if it has none."""
        return self.value if isinstance(self.value, DType) else None

    @property
    def bits(self) -> int:
        """Width of one element when stored, in bits."""
        return self.dtype.bits if self.dtype else _OTHER_BITS[self.value]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch type that holds the values: int8 for INT4. TypeError for a type that the IR lacks."""
        from compiler.ir.torch_types import to_torch  # records are read without torch, which takes a second to import

        if self.dtype is None:
            raise TypeError(f"{self.name} has no element type of the IR")
        return to_torch(self.dtype)


_OTHER_BITS = {"e2m1": 4, "e8m0": 8}

BY_DTYPE: Mapping[DType, DataType] = {type_.dtype: type_ for type_ in DataType if type_.dtype}
"""TensorRT's type for each element type of the IR; it has none for f64."""
