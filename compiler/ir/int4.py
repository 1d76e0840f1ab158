"""Integers of 4 bits, two to a byte.

torch has no such type: values from -8 to 7 are computed with as int8. Wherever they are stored (files of weights,
results of calibration, constants of TensorRT, weights that torch's kernels keep in memory) they lie row-major, the
first of two in the low half of their byte, the second in the high half, each a two's complement; an odd last one has
zeros above it. TensorRT's INT4 and the U8 tensors of our safetensors files are laid out so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNKS = (128, 64, 32)


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


def chunk_of(columns: Sequence[int], group: int) -> int | None:
    """How many columns of a matrix `chunk_int4` lays together: such that they share a scale, if they can.

    Args:
        columns: the columns of each of the inputs that the matrix multiplies, one input's behind the other's.
        group: how many columns share a scale.

    Returns:
        128, 64 or 32; None if there is no such size.
    """
    fits = [chunk for chunk in _CHUNKS if all(k % chunk == 0 for k in columns)]
    return next((c for c in fits if group % c == 0), next((c for c in fits if c % group == 0), None))


def chunk_int4(values: Tensor, chunk: int) -> Tensor:
    """A matrix of integers from -8 to 7 in the order of wide reads: of GPU kernels, that multiply by it.

    Args:
        values: int8 `[N, K]`.
        chunk: how many columns lie together; K is a multiple of it.

    Returns:
        Bytes `[K / chunk, N, chunk / 2]` (uint8): the low half of byte `j` of a chunk is its column `j` with 8 added,
        the high half column `j + chunk / 2`.
    """
    chunks = (values + 8).view(torch.uint8).view(len(values), -1, 2, chunk // 2)
    return (chunks[:, :, 0] | chunks[:, :, 1] << 4).permute(1, 0, 2)


def unchunk_int4(data: Tensor) -> Tensor:
    """The matrix `[N, K]`, as int8, that `chunk_int4` put into bytes."""
    halves = torch.stack([data & 15, data >> 4], 2).permute(1, 0, 2, 3)
    return halves.reshape(data.shape[1], -1).view(torch.int8) - 8
