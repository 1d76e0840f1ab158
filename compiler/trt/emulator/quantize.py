"""Quantization and its inverse, symmetric."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.trt.emulator.memory import convert, widen
from compiler.trt.emulator.table import Call, emulates

_RANGES = {"INT8": (-128, 127), "INT4": (-8, 7)}
_FLOATS = ("FLOAT", "HALF", "BF16")


def _scale(call: Call, x: Tensor) -> Tensor:
    """The scale in float32, broadcastable to x: one, one for every index of an axis, or one for every block."""
    scale = widen(call.tensor(1))
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.ndim == 1 and scale.shape[0] == x.shape[call.param("axis")]:
        return scale.reshape([-1 if axis == call.param("axis") % x.ndim else 1 for axis in range(x.ndim)])
    if scale.ndim != x.ndim or any(size % blocks for size, blocks in zip(x.shape, scale.shape, strict=True)):
        raise call.error(
            f"has scales of shape {list(scale.shape)} for {list(x.shape)}",
            hint="give one scale, one for every index of the axis, or one for every block of equal size",
        )
    for axis, blocks in enumerate(scale.shape):
        if blocks not in (1, x.shape[axis]):
            scale = scale.repeat_interleave(x.shape[axis] // blocks, dim=axis)
    return scale


@emulates("QUANTIZE", "axis", to_type=(*_RANGES, "FP8"))
def quantize(call: Call) -> Tensor:
    """The input over its scale, rounded with halves to even, cut to the range of the type."""
    x = widen(call.tensor(0))
    ratio = x / _scale(call, x)
    target = call.param("to_type")
    if target == "FP8":
        return convert(ratio, target)
    return ratio.round().clamp(*_RANGES[target]).to(torch.int8)


@emulates("DEQUANTIZE", "axis", to_type=_FLOATS)
def dequantize(call: Call) -> Tensor:
    """The input times its scale."""
    x = call.tensor(0).float()
    return x * _scale(call, x)
