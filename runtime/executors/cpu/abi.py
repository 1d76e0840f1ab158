"""The structs of `native/abi.h`, for ctypes."""

from __future__ import annotations

import ctypes
from typing import ClassVar

import torch

DTYPES: dict[torch.dtype, int] = {
    torch.float32: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.float8_e4m3fn: 3,
    torch.int8: 4,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 8,
}
"""The number of each element type."""
INT4 = 5
"""The number of int4, two to a byte, for which torch has no type that computes."""


class OperandStruct(ctypes.Structure):
    """See `Operand` in abi.h."""

    _fields_: ClassVar = [
        ("slot", ctypes.c_int32),
        ("size", ctypes.c_int32),
        ("offset", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    ]


class SlotStruct(ctypes.Structure):
    """See `Slot` in abi.h."""

    _fields_: ClassVar = [("row_bytes", ctypes.c_int64), ("size", ctypes.c_int32), ("pointer", ctypes.c_int32)]


class OpStruct(ctypes.Structure):
    """See `Op` in abi.h."""

    _fields_: ClassVar = [
        ("kernel", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("operands", ctypes.POINTER(OperandStruct)),
        ("count", ctypes.c_int64),
    ]


class ProgramStruct(ctypes.Structure):
    """See `Program` in abi.h."""

    _fields_: ClassVar = [
        ("ops", ctypes.POINTER(OpStruct)),
        ("slots", ctypes.POINTER(SlotStruct)),
        ("op_count", ctypes.c_int32),
        ("slot_count", ctypes.c_int32),
    ]
