"""Tensors over raw addresses, and their values in TensorRT's element types."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from compiler.trt_network.dtypes import DataType

TORCH_TYPES: Mapping[str, torch.dtype] = {type_.name: type_.torch_dtype for type_ in DataType if type_.dtype}
"""What holds each element type that the emulator has: those of the IR; INT4 is computed with as int8."""

_NARROW = frozenset({torch.float16, torch.bfloat16, torch.float8_e4m3fn})
_FP8_MAX = torch.finfo(torch.float8_e4m3fn).max


def upcast(x: Tensor) -> Tensor:
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


def tensor_at(address: int, dtype: str, shape: Sequence[int]) -> Tensor:
    """The dense tensor of that shape at an address; it shares the memory and does not keep it alive."""
    nbytes = prod(shape) * TORCH_TYPES[dtype].itemsize
    if nbytes == 0:
        return torch.empty(tuple(shape), dtype=TORCH_TYPES[dtype])
    buffer = (ctypes.c_uint8 * nbytes).from_address(address)
    return torch.frombuffer(buffer, dtype=torch.uint8).view(TORCH_TYPES[dtype]).view(tuple(shape))
