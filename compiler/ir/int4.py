"""Integers of 4 bits, two to a byte.

torch has no such type: values from -8 to 7 are computed with as int8. Wherever they are stored (files of weights,
results of calibration, constants of TensorRT, weights that torch's kernels keep in memory) they lie row-major, the
first of two in the low half of their byte, the second in the high half, each a two's complement; an odd last one has
zeros above it. TensorRT's INT4 and the U8 tensors of our safetensors files are laid out so.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack_int4(values: Tensor) -> Tensor:
    """Integers from -8 to 7, as int8 of any shape, in `ceil(n / 2)` bytes: a flat `uint8` tensor."""
    flat = values.reshape(-1).view(torch.uint8) & 15
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    return flat[::2] | flat[1::2] << 4


def unpack_int4(data: Tensor, count: int) -> Tensor:
    """The first `count` integers that `pack_int4` put into bytes, as a flat `int8` tensor."""
    # Shifts of signed bytes copy the sign.
    halves = torch.stack([data << 4, data], -1).view(torch.int8) >> 4
    return halves.reshape(-1)[:count]
