"""Integers as formats pack them: bits side by side in words, the inverse of the op `unpack`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = 32


def pack(integers: Tensor, bits: int, *, order: Sequence[int] = ()) -> Tensor:
    """Integers `[..., n]`, unsigned or less half of their range, in words `i32[..., ceil(n * bits / 32)]`.

    Args:
        integers: from `-2 ** (bits - 1)` to `2 ** (bits - 1) - 1`; what is stored is half of the range more.
        bits: 4 or 8.
        order: for each integer of a word, from the lowest bits up, which element it is; none for their own order.
    """
    per_word, half = _WORD // bits, 1 << (bits - 1)
    missing = -integers.shape[-1] % per_word
    if missing:  # what fills the last word is stored as 0
        integers = torch.nn.functional.pad(integers, (0, missing), value=-half)
    columns = integers.unflatten(-1, (-1, per_word))
    words = torch.zeros(columns.shape[:-1], dtype=torch.int32)
    for place, element in enumerate(order or range(per_word)):
        words |= (columns[..., element].to(torch.int32) + half) << (bits * place)
    return words


def signed(words: Tensor) -> Tensor:
    """Words of 32 bits, the others ignored, as `i32` of the same bits."""
    low = words & 0xFFFFFFFF
    return torch.where(low >> 31 == 1, low - (1 << 32), low).to(torch.int32)


def words_of(count: int, bits: int) -> int:
    """How many words so many integers take."""
    return -(-count * bits // _WORD)
