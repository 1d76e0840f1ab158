"""The kernels of packed steps, which reach into pools of blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.chunks import BUDGET
from compiler.ir.evaluators.quant import dequantize
from compiler.ir.packed_step import PackedStep, Span
from compiler.ir.paged_layout import PagedLayout
from runtime.executors.torch.kernels import attention

Pool = Tensor | tuple[Tensor, ...]
"""A pool; or a quantized one, with its scales and perhaps zero points, which are dequantized where they are read."""


class Reach(NamedTuple):
    """Which part of the pools a sequence is in.

    Attributes:
        span: its tokens in the step.
        blocks: its blocks: a slice of the pool's if they follow each other, and are read without a copy.
    """

    span: Span
    blocks: Tensor | slice

    def read(self, pool: Pool, length: int, dtype: torch.dtype) -> Tensor:
        """The first tokens of the sequence in a pool, `[1, heads, length, width]`."""
        if isinstance(pool, Tensor):
            return PagedLayout.read(pool, self.blocks, length)
        values, scale, *zero = pool
        scale, *zero = map(PagedLayout.heads_first, (scale, *zero))
        found = PagedLayout.read(values, self.blocks, length)
        return dequantize(found, scale.float(), zero[0] if zero else None).to(dtype)


class PagedAccess:
    """Where a step reads and writes in every pool; computed once a step.

    Attributes:
        slots: where the tokens are written, as `PagedLayout.append` takes it.
        reaches: the sequences, in the order of their tokens.
    """

    def __init__(self, step: PackedStep, block: int, device: torch.device) -> None:
        self.reaches = [Reach(span, _blocks(step, span, block, device)) for span in step.spans()]
        self.slots: Tensor | slice
        first = self.reaches[0]
        if len(self.reaches) == 1 and isinstance(first.blocks, slice):
            start = first.blocks.start * block + first.span.past
            self.slots = slice(start, start + step.tokens)
        else:
            positions, rows, tables = step.token_positions, step.token_rows, step.block_tables
            self.slots = PagedLayout.slots(positions, rows, tables, block).to(device)
        self._masks: dict[tuple[int, int, int], Tensor] = {}
        self._held = 0

    def mask(self, at: int, start: int, stop: int, slopes: Tensor | None, window: int, like: Tensor) -> Tensor:
        """What is added to the scores of some tokens of a sequence, `[1, 1 or heads, tokens, positions]`.

        The layers of a model ask for the same ones: those that fit are kept until the step ends.
        """
        key = (self.reaches[at].span.start + start, id(slopes), window)
        if key not in self._masks:
            made = _mask(self.reaches[at].span.past, start, stop, slopes, window, like)
            if self._held + made.numel() > BUDGET:
                return made
            self._held += made.numel()
            self._masks[key] = made
        return self._masks[key]


def _blocks(step: PackedStep, span: Span, block: int, device: torch.device) -> Tensor | slice:
    table = step.block_tables[span.row, : -(-span.length // block)]
    listed = table.tolist()
    first = listed[0]
    if listed == list(range(first, first + len(listed))):
        return slice(first, first + len(listed))
    return table.long().to(device)


def _mask(past: int, start: int, stop: int, slopes: Tensor | None, window: int, like: Tensor) -> Tensor:
    seen = torch.arange(past + stop, device=like.device)
    distance = seen - torch.arange(past + start, past + stop, device=like.device)[:, None]
    visible = distance <= 0
    if window >= 0:
        visible &= distance >= -window
    bias = torch.zeros((), device=like.device) if slopes is None else slopes * distance
    result = torch.where(visible, bias, float("-inf")).to(like.dtype)
    return result.expand(1, result.shape[0] if slopes is not None else 1, *visible.shape)


def paged_append(pool: Tensor, new: Tensor, access: PagedAccess) -> Tensor:
    """Write a step's new keys or values, `[1, heads, T, width]`, into a pool; returns the pool."""
    return PagedLayout.append(pool, new, access.slots)


def paged_attention(
    q: Tensor, k: Pool, v: Pool, access: PagedAccess, scale: float, slopes: Tensor | None, window: int
) -> Tensor:
    """The op `paged_attention` for `q [1, heads, T, D]`, sequence by sequence."""
    if len(access.reaches) == 1:
        return _sequence(q, k, v, access, 0, scale, slopes, window)
    parts = []
    for at, (span, _) in enumerate(access.reaches):
        own = q.narrow(LINEAR.POSITION, span.start, span.new)
        parts.append(_sequence(own, k, v, access, at, scale, slopes, window))
    return torch.cat(parts, LINEAR.POSITION)


def _sequence(
    q: Tensor, k: Pool, v: Pool, access: PagedAccess, at: int, scale: float, slopes: Tensor | None, window: int
) -> Tensor:
    """Attention of the tokens of one sequence. Of a long one, so many at a time that a mask is within the budget."""
    span = access.reaches[at].span
    keys, values = (access.reaches[at].read(pool, span.length, q.dtype) for pool in (k, v))
    plain = slopes is None and window < 0
    if plain and span.new == 1:
        return attention(q, keys, values, None, scale)
    heads = q.shape[LINEAR.HEAD]
    if plain and not span.past and (q.device.type == "cpu" or heads * span.new * span.length <= BUDGET):
        return attention(q, keys, values, None, scale, causal=True)
    held = heads if slopes is not None or q.device.type == "cuda" else 1
    most = max(1, BUDGET // (held * span.length))
    parts = []
    for start in range(0, span.new, most):
        stop = min(start + most, span.new)
        axis, seen = LINEAR.POSITION, span.past + stop
        mask = access.mask(at, start, stop, slopes, window, q)
        some = q.narrow(axis, start, stop - start)
        parts.append(attention(some, keys.narrow(axis, 0, seen), values.narrow(axis, 0, seen), mask, scale))
    return parts[0] if len(parts) == 1 else torch.cat(parts, LINEAR.POSITION)
