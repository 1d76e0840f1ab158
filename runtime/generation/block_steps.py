"""Packed steps over the blocks of a paged session."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListOf
from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from runtime.executors.paged import PagedSession, StepsAhead, WarmsUp
from runtime.generation.block_cache import BlockCache
from runtime.generation.cache import Copies
from runtime.generation.sequence import Sequence
from runtime.generation.session_steps import Begun, Chunk, Ints


class BlockSteps:
    """Packed steps over the blocks of a paged session. See `SessionSteps`.

    Args:
        session: the session.
        sequences: how many sequences there can be at once.
        longest: how many tokens a sequence may have.
    """

    def __init__(self, session: PagedSession, *, sequences: int, longest: int) -> None:
        self.session, self.step_tokens = session, session.step_tokens
        self._steps_ahead = session if isinstance(session, StepsAhead) else None
        self.cache = BlockCache(session.blocks, session.block, sequences=sequences, longest=longest)

    def split(self, chunks: ListOf[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
        """See `SessionSteps.split`: nothing is padded, so all run at once."""
        return [*chunks], []

    def run(self, chunks: ListOf[Chunk]) -> tuple[list[Sequence], Tensor]:
        """See `SessionSteps.run`."""
        ordered = self._ordered(chunks)
        logits = self._logits(ordered, every=False)
        return [sequence for sequence, _ in ordered if not sequence.pending], logits

    def run_every(self, chunk: Chunk) -> Tensor:
        """See `SessionSteps.run_every`."""
        return self._logits([chunk], every=True)

    def copy(self, copies: Copies) -> None:
        """See `SessionSteps.copy`."""
        if copies.sources:
            self.session.copy_blocks(*copies)

    def warm_up(self, sequences: int, longest: int, done: Callable[[int, int], None]) -> None:
        """See `SessionSteps.warm_up`."""
        if isinstance(self.session, WarmsUp):
            self.session.warm_up(sequences, longest, done)

    def begin(self, chunks: ListOf[Chunk]) -> Begun | None:
        """See `SessionSteps.begin`."""
        if self._steps_ahead is None or not any(count == each.pending for each, count in chunks):
            return None
        return self._begin(self._steps_ahead, _Ahead.nothing(), chunks)

    def go_on(self, after: Begun, going: npt.NDArray[np.bool_], chunks: ListOf[Chunk] = ()) -> Begun:
        """See `SessionSteps.go_on`."""
        assert self._steps_ahead is not None
        begun = self._begin(self._steps_ahead, _Ahead.of(after, going), chunks)
        begun.kept = going.tolist()
        return begun

    def _begin(self, session: StepsAhead, ahead: _Ahead, chunks: ListOf[Chunk]) -> Begun:
        """Begin a step of sequences whose next tokens are not known, and of chunks of others."""
        if not chunks:
            step = self._step(ahead.ids, ahead.lengths, ahead.slots, _numbers(len(ahead.ids)))
            chosen = session.step_ahead(step)
            return Begun(ahead.sequences, chosen, step.tokens, ahead.slots, ahead.lengths + 1, ahead.ends, ahead.rooms)
        chunks = self._ordered(chunks)
        known = self._arrays(chunks, every=False)
        done = [sequence for sequence, count in chunks if count == sequence.pending]
        ends = _array([sequence.group.longest - 1 for sequence in done])
        rooms = _array([sequence.room for sequence in done])
        lengths = _array([len(sequence.tokens) for sequence in done])
        slots = known.rows[known.wanted]
        # Both are in the order of their slots; merged, they are so again, and the logits with them.
        order = np.argsort(np.concatenate([ahead.slots, known.rows]), kind="stable")
        ids = np.concatenate([ahead.ids, known.ids])[order]
        positions = np.concatenate([ahead.lengths, known.positions])[order]
        rows = np.concatenate([ahead.slots, known.rows])[order]
        wants = np.zeros(len(order), dtype=bool)
        wants[: len(ahead.ids)] = True
        wants[len(ahead.ids) + known.wanted] = True
        chosen = session.step_ahead(self._step(ids, positions, rows, wants[order].nonzero()[0].astype(np.int32)))
        for sequence, count in chunks:
            self.cache.filled(sequence, count)
        merged = np.argsort(np.concatenate([ahead.slots, slots]), kind="stable")
        sequences = [*ahead.sequences, *done]
        return Begun(
            [sequences[at] for at in merged],
            chosen,
            len(order),
            np.concatenate([ahead.slots, slots])[merged],
            np.concatenate([ahead.lengths + 1, lengths])[merged],
            np.concatenate([ahead.ends, ends])[merged],
            np.concatenate([ahead.rooms, rooms])[merged],
        )

    def _ordered(self, chunks: ListOf[Chunk]) -> list[Chunk]:
        return sorted(chunks, key=lambda chunk: self.cache.slot(chunk[0]))

    def _step(self, ids: Ints, positions: Ints, rows: Ints, wanted: Ints) -> PackedStep:
        """A step over sequences in the order of their slots, which are the rows."""
        width = int(positions.max()) // self.cache.block + 1
        tables = self.cache.tables[: rows[-1] + 1, :width]
        return PackedStep(*map(torch.from_numpy, (ids, positions, rows, tables, wanted)))

    def _logits(self, chunks: ListOf[Chunk], *, every: bool) -> Tensor:
        """Compute a step over sequences in the order of their slots."""
        logits = self.session.step(self._step(*self._arrays(chunks, every=every)))
        for sequence, count in chunks:
            self.cache.filled(sequence, count)
        return logits

    def _arrays(self, chunks: ListOf[Chunk], *, every: bool) -> _Tokens:
        """The next tokens of sequences in the order of their slots; the last ones are wanted, or all."""
        ids: list[int] = []
        for sequence, count in chunks:
            start = sequence.cached
            ids += sequence.tokens[start : start + count]
        counts = _array([count for _, count in chunks])
        starts = _array([sequence.cached for sequence, _ in chunks])
        slots = _array([self.cache.slot(sequence) for sequence, _ in chunks])
        stops = counts.cumsum(dtype=np.int32)
        numbers = _numbers(len(ids))
        positions = numbers + (starts - stops + counts).repeat(counts)
        done = np.array([count == sequence.pending for sequence, count in chunks])
        return _Tokens(_array(ids), positions, slots.repeat(counts), numbers if every else stops[done] - 1)


class _Tokens(NamedTuple):
    """The tokens of a step, and which of them have logits that are wanted."""

    ids: Ints
    positions: Ints
    rows: Ints
    wanted: Ints


class _Ahead(NamedTuple):
    """Sequences whose next tokens are not known: what stands for these, and what `Begun` holds of the step before."""

    sequences: list[Sequence]
    ids: Ints
    slots: Ints
    lengths: Ints
    ends: Ints
    rooms: Ints

    @classmethod
    def nothing(cls) -> _Ahead:
        """No sequences."""
        return cls([], *[_array([])] * 5)

    @classmethod
    def of(cls, begun: Begun, going: npt.NDArray[np.bool_]) -> _Ahead:
        """Those of a step that go on."""
        ids = -1 - _numbers(len(begun.sequences))
        arrays = (ids, begun.slots, begun.lengths, begun.ends, begun.rooms)
        if going.all():
            return cls(begun.sequences, *arrays)
        return cls([*compress(begun.sequences, going.tolist())], *(each[going] for each in arrays))


def _array(numbers: ListOf[int]) -> Ints:
    return np.array(numbers, dtype=np.int32)


def _numbers(count: int) -> Ints:
    return np.arange(count, dtype=np.int32)
