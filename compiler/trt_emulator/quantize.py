"""Quantization and its inverse, symmetric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compiler.trt_emulator.memory import convert, upcast
from compiler.trt_emulator.table import LayerCall, emulates

_RANGES = {"INT8": (-128, 127), "INT4": (-8, 7)}
_FLOATS = ("FLOAT", "HALF", "BF16")
_BLOCKS: tuple[Any, ...] = ([], None)  # not set: the shape of the scale says it


def _scale(call: LayerCall, x: Tensor) -> Tensor:
    """The scale in float32, broadcastable to x: one, one for every index of an axis, or one for every block."""
    scale, axis = upcast(call.tensor(1)), call.param("axis") % max(x.ndim, 1)
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.ndim == 1 and scale.shape[0] == x.shape[axis]:
        return scale.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    if scale.ndim != x.ndim or any(size % blocks for size, blocks in zip(x.shape, scale.shape, strict=True)):
        raise call.error(
            f"has scales of shape {list(scale.shape)} for {list(x.shape)}",
            hint="give one scale, one for every index of the axis, or one for every block of equal size",
        )
    for i, blocks in enumerate(scale.shape):
        if blocks not in (1, x.shape[i]):
            scale = scale.repeat_interleave(x.shape[i] // blocks, dim=i)
    return scale


@emulates("QUANTIZE", "axis", inputs=2, block_shape=_BLOCKS, to_type=(*_RANGES, "FP8"))
def quantize(call: LayerCall) -> Tensor:
    """The input over its scale, rounded with halves to even, cut to the range of the type.

    Measured on TensorRT-RTX 1.6.1, where the documentation says `round(x / scale)` and nothing of NaN:

    - to INT8 the input is multiplied by the inverse of the scale. With a float16 scale both the inverse and the
      product are rounded to float16 before they are rounded to integers. NaN becomes 127 with a float16 scale, else 0.
    - to FP8 infinities become the largest finite value and NaN stays NaN. With a float16 scale the quotient is rounded
      to float16 first.

    INT4, and bfloat16 scales, were not measured: they follow INT8, and float32 scales.
    """
    x, target = upcast(call.tensor(0)), call.param("to_type")
    scale, is_half = _scale(call, x), call.tensor(1).dtype == torch.float16
    if target == "FP8":
        return convert(_narrowed(x / scale, is_half), target)
    ratio = _narrowed(x * _narrowed(1 / scale, is_half), is_half).round()
    low, high = _RANGES[target]
    return ratio.nan_to_num(nan=high if is_half else 0).clamp(low, high).to(torch.int8)


def _narrowed(x: Tensor, is_half: bool) -> Tensor:
    """The values, rounded to float16 if that is the layer's type."""
    return x.half().float() if is_half else x


@emulates("DEQUANTIZE", "axis", inputs=2, block_shape=_BLOCKS, to_type=_FLOATS)
def dequantize(call: LayerCall) -> Tensor:
    """The input times its scale, rounded once, as documented."""
    x = call.tensor(0).float()
    return x * _scale(call, x)
