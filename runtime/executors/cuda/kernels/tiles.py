"""How attention is divided into programs, and how many queries and positions a program has at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton

from runtime.executors.cuda.kernels.device import multiprocessors, shared_memory

MOST_SPLITS = 32
"""Into how many programs the positions of a sequence are divided at most."""
_LEAST_SHARE = 32
_WAVES = 2
_UNROLL, _WARPS, _STAGES = 4, 4, 1
_PREFILL = ((64, 64, 4, 3), (64, 32, 4, 3), (64, 32, 4, 2), (32, 32, 4, 1), (16, 16, 4, 1))


def split_count(tokens: int, programs: int, longest: int, device: torch.device) -> int:
    """Into how many programs the positions of a sequence are divided when single tokens attend.

    Args:
        tokens: how many tokens a step has.
        programs: how many programs share the key heads of a token.
        longest: an upper bound of a sequence's length.
        device: where it runs.
    """
    wanted = triton.cdiv(_WAVES * multiprocessors(device), tokens * programs)
    useful = triton.cdiv(longest, _LEAST_SHARE)
    count: int = max(1, min(MOST_SPLITS, wanted, useful))
    return 1 << (count.bit_length() - 1)


class DecodeTiles(NamedTuple):
    """How a program goes over the positions of a single token.

    Attributes:
        keys: how many key heads it has.
        group: how many queries share a key head, padded; 1 if keys are not shared.
        positions: how many positions it reads at a time, a power of two.
        unroll: how many rows of a tile a thread has, if keys are not shared.
        warps: how many warps it has.
        stages: how many tiles are read and computed at a time.
    """

    keys: int
    group: int
    positions: int
    unroll: int
    warps: int
    stages: int


def decode_tiles(dtype: torch.dtype, stored: int, width: int, kv_heads: int, group: int) -> DecodeTiles:
    """The tiles for single tokens.

    Args:
        dtype: the type of the queries.
        stored: how many bytes a pool has for a value.
        width: how many values a head has.
        kv_heads: how many key heads there are.
        group: how many query heads share a key head.
    """
    width = padded(width)
    if group > 1:
        many = max(16, triton.next_power_of_2(group))
        if dtype is torch.float32:
            return DecodeTiles(1, many, 16, 1, 4, 1)
        return DecodeTiles(1, many, 64 if width <= 128 else 32, 1, 4, 2)
    # A thread loads 16 bytes at once; a warp loads heads that lie one after the other, as many as it can.
    rows = 32 // min(32, max(1, width * stored // 16))
    keys = next(each for each in (32, 16, 8, 4, 2, 1) if each <= rows and kv_heads % each == 0)
    return DecodeTiles(keys, 1, rows * _WARPS // keys * _UNROLL, _UNROLL, _WARPS, _STAGES)


def padded(width: int) -> int:
    """The power of two that kernels have for the width of a head."""
    return max(16, int(triton.next_power_of_2(width)))


def prefill_tiles(dtype: torch.dtype, stored: int, width: int, device: torch.device) -> tuple[int, int, int, int]:
    """For chunks: a program's queries, how many positions it reads at a time, its warps and its stages.

    The best tiles whose queries, keys and values fit into the shared memory of the GPU.

    Args:
        dtype: the type of the queries.
        stored: how many bytes a pool has for a value.
        width: how many values a head has, `padded`.
        device: where it runs.
    """
    if dtype is torch.float32:
        return 16, 16, 4, 1
    tiles = _PREFILL if width <= 128 else _PREFILL[1:] if stored == dtype.itemsize else ((64, 64, 4, 2), *_PREFILL[2:])
    memory = shared_memory(device)
    return next(
        (each for each in tiles if (each[0] + 2 * each[3] * each[1]) * width * dtype.itemsize <= memory), tiles[-1]
    )
