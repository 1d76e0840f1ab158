"""What the ops of `compiler.ir.ops.unpack` compute."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compiler.errors import GraphError
from compiler.ir.evaluators.core import Attrs, Sizes, evaluates


@evaluates("unpack", exact=True)
def _unpack(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    bits, order = attrs["bits"], attrs["order"]
    width = 8 * x.element_size()
    words = x.movedim(attrs["axis"], -1).contiguous()
    per_turn = math.lcm(width, bits) // bits  # so many integers end where a word ends
    found = torch.empty(*words.shape[:-1], words.shape[-1] * width // bits, dtype=torch.int8)
    for i in range(per_turn):
        target = order[i] if order else i
        found[..., target::per_turn] = _integers(words, i, per_turn, bits, width, found.shape[-1], attrs["signed"])
    return found.movedim(-1, attrs["axis"])


def _integers(words: Tensor, i: int, per_turn: int, bits: int, width: int, total: int, signed: bool) -> Tensor:
    """The integers `i`, `i + per_turn` ... of `total` along the last dim."""
    count = len(range(i, total, per_turn))
    stride = per_turn * bits // width
    first, shift = divmod(i * bits, width)
    value: Tensor = words[..., first::stride][..., :count].long() & (2**width - 1)
    value >>= shift
    if shift + bits > width:
        value |= (words[..., first + 1 :: stride][..., :count].long() & (2**width - 1)) << (width - shift)
    value &= 2**bits - 1
    half = 1 << (bits - 1)
    if signed:
        value ^= half
    return value - half


@evaluates("group_order", exact=True)
def _group_order(attrs: Attrs, sizes: Sizes, groups: Tensor) -> Tensor:
    count, columns = attrs["count"], len(groups)
    ordered, order = torch.sort(groups, stable=True)
    expected = torch.arange(count, dtype=groups.dtype).repeat_interleave(columns // count)
    if not torch.equal(ordered.cpu(), expected):
        raise GraphError(
            f"columns are not {count} groups of {columns // count}",
            hint="the checkpoint's g_idx does not fit its group_size: quantize the model again",
        )
    return order.int()
