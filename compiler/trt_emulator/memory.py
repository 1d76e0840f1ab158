"""Tensors over raw addresses, and TensorRT's element types in torch."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from enum import Enum
from math import prod

import torch
from torch import Tensor


class DataType(Enum):
    """The element types, named as TensorRT's are."""

    FLOAT = 0
    HALF = 1
    BF16 = 2
    INT32 = 3
    INT64 = 4
    BOOL = 5
    INT8 = 6
    UINT8 = 7
    FP8 = 8
    INT4 = 9


TORCH_TYPES: Mapping[str, torch.dtype] = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "FP8": torch.float8_e4m3fn,
    "INT4": torch.int8,
}
"""What holds each type; INT4 lies in memory two to a byte, and is computed with as int8."""

_NARROW = frozenset({torch.float16, torch.bfloat16, torch.float8_e4m3fn})
_FP8_MAX = torch.finfo(torch.float8_e4m3fn).max


def widen(x: Tensor) -> Tensor:
    """A 16-bit or 8-bit float as float32; anything else as it is."""
    return x.float() if x.dtype in _NARROW else x


def convert(x: Tensor, dtype: str) -> Tensor:
    """The values in a TensorRT type: rounded to nearest, cut off towards zero for integers, saturated for FP8.

    FP8 was measured on TensorRT-RTX 1.6.1: halves go to even, infinities become +-448, NaN stays NaN.
    """
    target = TORCH_TYPES[dtype]
    if x.dtype == target:
        return x
    if dtype == "FP8":
        x = x.float().clamp(-_FP8_MAX, _FP8_MAX)
    return x.to(target)


def byte_count(dtype: str, shape: Sequence[int]) -> int:
    """How many bytes a dense tensor takes in memory."""
    elements = prod(shape)
    return (elements + 1) // 2 if dtype == "INT4" else elements * TORCH_TYPES[dtype].itemsize


def tensor_at(address: int, dtype: str, shape: Sequence[int]) -> Tensor:
    """The dense tensor of that shape at an address; it shares the memory and does not keep it alive."""
    nbytes = byte_count(dtype, shape)
    if nbytes == 0:
        return torch.empty(tuple(shape), dtype=TORCH_TYPES[dtype])
    buffer = (ctypes.c_uint8 * nbytes).from_address(address)
    return torch.frombuffer(buffer, dtype=torch.uint8).view(TORCH_TYPES[dtype]).view(tuple(shape))


def from_bytes(data: Tensor, dtype: str, shape: Sequence[int]) -> Tensor:
    """Flat bytes seen as a tensor: a view where they are aligned; INT4 is unpacked, the low half of a byte first."""
    if dtype == "INT4":
        signed = data.view(torch.int8)
        halves = torch.stack([signed << 4 >> 4, signed >> 4], dim=-1).flatten()
        return halves[: prod(shape)].view(tuple(shape))
    if data.numel() == 0:
        return torch.empty(tuple(shape), dtype=TORCH_TYPES[dtype])
    if data.storage_offset() % TORCH_TYPES[dtype].itemsize:
        data = data.clone()
    return data.view(TORCH_TYPES[dtype]).view(tuple(shape))
