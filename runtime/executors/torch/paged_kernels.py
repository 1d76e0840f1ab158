"""The kernels of packed steps, which reach into pools of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import NamedTuple, Protocol

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

# Sequences are read together while that reads no more than so many times their tokens.
_MOST_READ = 1.5


class Scoring(NamedTuple):
    """What a `paged_attention` op says of scores.

    Attributes:
        scale: factor on the scores.
        slopes: of ALiBi, `f32[heads, 1, 1]`, or None.
        window: how many positions back a token sees; -1 for all.
    """

    scale: float
    slopes: Tensor | None
    window: int

    def added(self, distance: Tensor, like: Tensor) -> Tensor:
        """What is added to scores, by how far a key is after the token; it has an axis for heads before the last two.

        Args:
            distance: `[..., tokens, positions]`, integers.
            like: a tensor of the wanted element type.
        """
        if self.slopes is not None and self.window < 0 and distance.shape[:-1].numel() == 1:
            return (self.slopes * distance).to(like.dtype)  # the last token of a sequence sees all of it
        visible = distance <= 0
        if self.window >= 0:
            visible &= distance >= -self.window
        bias = torch.zeros((), device=distance.device) if self.slopes is None else self.slopes * distance
        return torch.where(visible, bias, float("-inf")).to(like.dtype)


class Part(Protocol):
    """Some consecutive tokens of a step, which attend together."""

    @property
    def start(self) -> int:
        """The first of the tokens."""
        ...

    @property
    def stop(self) -> int:
        """The token after the last."""
        ...

    def attend(self, q: Tensor, k: Pool, v: Pool, scoring: Scoring, masks: Masks) -> Tensor:
        """The context of the tokens, `[1, heads, tokens, width]`, from their queries of that form."""
        ...


class Masks:
    """What is added to scores: the layers of a model ask for the same. What fits is kept until the step ends."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, int], Tensor] = {}
        self._held = 0

    def get(self, token: int, scoring: Scoring, distance: Callable[[], Tensor], like: Tensor) -> Tensor:
        """The mask of some tokens, the first of which is `token`; `distance` is as `Scoring.added` takes it."""
        key = (token, id(scoring.slopes), scoring.window)
        mask = self._kept.get(key)
        if mask is None:
            mask = scoring.added(distance(), like)
            if self._held + mask.numel() <= BUDGET:
                self._held += mask.numel()
                self._kept[key] = mask
        return mask


@dataclass(frozen=True)
class OneSequence:
    """The tokens of one sequence. See `Part`.

    Attributes:
        start: the first one.
        stop: the one after the last.
        past: how many tokens of the sequence are in the pools already.
        blocks: its blocks, on the device: a range if they follow each other; then they are read without a copy.
        table: its blocks, on the host.
    """

    start: int
    stop: int
    past: int
    blocks: Tensor | range
    table: Sequence[int]

    def attend(self, q: Tensor, k: Pool, v: Pool, scoring: Scoring, masks: Masks) -> Tensor:
        """See `Part.attend`. Of a long sequence, so many tokens at a time that a mask is within the budget."""
        new = self.stop - self.start
        length = self.past + new
        keys, values = (_read(pool, self.blocks, length, q.dtype) for pool in (k, v))
        plain = scoring.slopes is None and scoring.window < 0
        if plain and new == 1:
            return attention(q, keys, values, None, scoring.scale)
        heads = q.shape[LINEAR.HEAD]
        if plain and not self.past and (q.device.type == "cpu" or heads * new * length <= BUDGET):
            return attention(q, keys, values, None, scoring.scale, causal=True)
        held = heads if scoring.slopes is not None or q.device.type == "cuda" else 1
        most = max(1, BUDGET // (held * length))
        axis, parts = LINEAR.POSITION, []
        for start in range(0, new, most):
            stop = min(start + most, new)
            seen, count = self.past + stop, stop - start

            def distance(seen: int = seen, count: int = count) -> Tensor:
                if count == 1:
                    return torch.arange(1 - seen, 1, device=q.device)[None, None, None]
                places = torch.arange(seen, device=q.device)
                return (places - places[seen - count :, None])[None, None]

            mask = masks.get(self.start + start, scoring, distance, q)
            some, these, those = q.narrow(axis, start, count), keys.narrow(axis, 0, seen), values.narrow(axis, 0, seen)
            parts.append(attention(some, these, those, mask, scoring.scale))
        return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


@dataclass(frozen=True)
class EvenRows:
    """Single tokens of sequences that lie in the pools at equal distances, and are read together. See `Part`.

    Attributes:
        start: the first one.
        stop: the one after the last.
        first: the slot with which the first sequence begins.
        apart: how many slots further each of the next ones begins.
        lengths: how many tokens each sequence has, the new one too.
    """

    start: int
    stop: int
    first: int
    apart: int
    lengths: tuple[int, ...]

    def attend(self, q: Tensor, k: Pool, v: Pool, scoring: Scoring, masks: Masks) -> Tensor:
        """See `Part.attend`: a row for each sequence, as long as the longest."""
        longest = max(self.lengths)
        rows = (len(self.lengths), self.first, self.apart, longest)
        keys, values = (_read_rows(pool, rows, q.dtype) for pool in (k, v))
        mask = None
        if scoring.slopes is not None or scoring.window >= 0 or min(self.lengths) < longest:

            def distance() -> Tensor:
                places = torch.arange(longest, device=q.device)
                return (places - (torch.tensor(self.lengths, device=q.device)[:, None] - 1))[:, None, None]

            mask = masks.get(self.start, scoring, distance, q)
        context = attention(q.transpose(LINEAR.ROW, LINEAR.POSITION), keys, values, mask, scoring.scale)
        return context.transpose(LINEAR.ROW, LINEAR.POSITION)


@dataclass(frozen=True)
class GatheredRows:
    """Single tokens of sequences that lie anywhere in the pools, of which copies are read together. See `Part`.

    On a GPU a copy takes less time than the launches of one kernel after the other.

    Attributes:
        start: the first one.
        stop: the one after the last.
        slots: where the tokens of each sequence lie, `i64[sequences, longest]`; any slot after its last token.
        lengths: how many tokens each sequence has, the new one too, `i64[sequences]`.
    """

    start: int
    stop: int
    slots: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, group: Sequence[OneSequence], block: int, device: torch.device) -> GatheredRows:
        """The rows of sequences that get one token each."""
        lengths = [each.past + 1 for each in group]
        most = max(len(each.table) for each in group)
        padded = torch.tensor([[*each.table, *[0] * (most - len(each.table))] for each in group], dtype=torch.int64)
        slots = (padded[:, :, None] * block + torch.arange(block)).flatten(1)[:, : max(lengths)]
        return cls(group[0].start, group[-1].stop, slots.to(device), torch.tensor(lengths, device=device))

    def attend(self, q: Tensor, k: Pool, v: Pool, scoring: Scoring, masks: Masks) -> Tensor:
        """See `Part.attend`: a row for each sequence, as long as the longest."""
        keys, values = (_gather(pool, self.slots, q.dtype) for pool in (k, v))

        def distance() -> Tensor:
            places = torch.arange(self.slots.shape[1], device=q.device)
            return (places - (self.lengths[:, None] - 1))[:, None, None]

        mask = masks.get(self.start, scoring, distance, q)
        context = attention(q.transpose(LINEAR.ROW, LINEAR.POSITION), keys, values, mask, scoring.scale)
        return context.transpose(LINEAR.ROW, LINEAR.POSITION)


class PagedAccess:
    """Where a step reads and writes in every pool; computed once a step.

    Attributes:
        slots: where the tokens are written, as `PagedLayout.append` takes it.
        parts: the tokens, in order, by how they attend.
        masks: what is added to scores.
    """

    def __init__(self, step: PackedStep, block: int, blocks: int, device: torch.device) -> None:
        sequences = [_sequence(step, span, block, device) for span in step.spans()]
        self.slots: Tensor | range
        slots = [
            range(each.blocks.start * block + each.past, each.blocks.start * block + each.past + each.stop - each.start)
            for each in sequences
            if isinstance(each.blocks, range)
        ]
        if len(slots) < len(sequences):
            positions, rows, tables = step.token_positions, step.token_rows, step.block_tables
            self.slots = PagedLayout.slots(positions, rows, tables, block).to(device)
        elif len(slots) == 1:
            self.slots = slots[0]
        else:
            self.slots = torch.tensor([*chain.from_iterable(slots)], device=device)
        self.parts = list(_parts(sequences, block, blocks, device))
        self.masks = Masks()


def _sequence(step: PackedStep, span: Span, block: int, device: torch.device) -> OneSequence:
    table = step.table(span, block)
    following = range(table[0], table[0] + len(table))
    blocks = following if table == [*following] else torch.tensor(table, device=device)
    return OneSequence(span.start, span.stop, span.past, blocks, table)


def _parts(sequences: Sequence[OneSequence], block: int, blocks: int, device: torch.device) -> Iterator[Part]:
    """The sequences; those that decode one token are joined where they lie evenly, or where copies are cheap."""
    for single, grouped in groupby(sequences, lambda each: each.stop - each.start == 1):
        group = list(grouped)
        rows: Part | None = _even_rows(group, block, blocks) if single and len(group) > 1 else None
        if rows is None and single and len(group) > 1 and device.type == "cuda":
            rows = GatheredRows.of(group, block, device)
        yield from group if rows is None else [rows]


def _even_rows(group: Sequence[OneSequence], block: int, blocks: int) -> EvenRows | None:
    """Single tokens of sequences as rows at equal distances, if they are and that reads little more."""
    firsts = [each.blocks.start * block for each in group if isinstance(each.blocks, range)]
    lengths = tuple(each.past + 1 for each in group)
    longest = max(lengths)
    if len(firsts) < len(group) or longest * len(group) > _MOST_READ * sum(lengths):
        return None
    first, apart = firsts[0], firsts[1] - firsts[0]
    even = apart > 0 and firsts == [first + apart * row for row in range(len(group))]
    if not even or firsts[-1] + longest > blocks * block:
        return None
    return EvenRows(group[0].start, group[-1].stop, first, apart, lengths)


def _read(pool: Pool, blocks: Tensor | range, length: int, dtype: torch.dtype) -> Tensor:
    if isinstance(pool, Tensor):
        return PagedLayout.read(pool, blocks, length).to(dtype)
    return _dequantized(PagedLayout.read(pool[0], blocks, length), pool, dtype)


def _read_rows(pool: Pool, rows: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    if isinstance(pool, Tensor):
        return PagedLayout.rows(pool, *rows).to(dtype)
    return _dequantized(PagedLayout.rows(pool[0], *rows), pool, dtype)


def _gather(pool: Pool, slots: Tensor, dtype: torch.dtype) -> Tensor:
    if isinstance(pool, Tensor):
        return PagedLayout.gather(pool, slots).to(dtype)
    return _dequantized(PagedLayout.gather(pool[0], slots), pool, dtype)


def _dequantized(values: Tensor, pool: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    _, scale, *zero = pool
    scale, *zero = map(PagedLayout.heads_first, (scale, *zero))
    return dequantize(values, scale.float(), zero[0] if zero else None).to(dtype)


def paged_append(pool: Tensor, new: Tensor, access: PagedAccess) -> Tensor:
    """Write a step's new keys or values, `[1, heads, T, width]`, into a pool; returns the pool."""
    return PagedLayout.append(pool, new, access.slots)


def paged_attention(
    q: Tensor, k: Pool, v: Pool, access: PagedAccess, scale: float, slopes: Tensor | None, window: int
) -> Tensor:
    """The op `paged_attention` for `q [1, heads, T, D]`, part by part of its tokens."""
    scoring, axis = Scoring(scale, slopes, window), LINEAR.POSITION
    if len(access.parts) == 1:
        return access.parts[0].attend(q, k, v, scoring, access.masks)
    contexts = [
        part.attend(q.narrow(axis, part.start, part.stop - part.start), k, v, scoring, access.masks)
        for part in access.parts
    ]
    return torch.cat(contexts, axis)
