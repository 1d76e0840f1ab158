"""Steps of sessions over sequences that have places in their caches."""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field
from itertools import compress
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from compiler.ir.step import Step, all_positions, last_positions
from runtime.executors.interface import Executor, Session
from runtime.executors.memory import most_blocks
from runtime.executors.paged import STEP_TOKENS, Chosen, PagedExecutor, PagedSession, StepsAhead, blocks_of_rows
from runtime.generation.block_cache import BlockCache
from runtime.generation.cache import Copies, SequenceCache
from runtime.generation.row_cache import RowCache
from runtime.generation.sequence import Sequence

Ints = npt.NDArray[np.int32]
Chunk = tuple[Sequence, int]
"""A sequence, and how many of its next tokens are to be computed."""

# Rows whose numbers of tokens differ run together as long as no more than this is padding: to read the weights once
# more takes a CPU as long as some tokens do.
_PADDING_TOKENS = 32
_PADDING_SHARE = 0.2


@dataclass
class Begun:
    """A step that may still be running, and the sequences all of whose known tokens are in the caches after it.

    What the arrays hold of a sequence, `i32`, is in the order of the sequences, which is that of their slots.

    Attributes:
        sequences: the sequences, in the order of the step's logits.
        chosen: their most likely next tokens.
        tokens: how many tokens the step computes.
        slots: the rows of the cache's tables that are theirs.
        lengths: how many tokens each has in the caches after the step.
        ends: how many it has there when its next token is the last that it may get.
        rooms: for how many tokens it has room.
        kept: for each sequence of the step before whether it goes on in this one, with the token chosen there.
        prompts: whether other sequences have tokens that are in no cache.
    """

    sequences: list[Sequence]
    chosen: Chosen
    tokens: int
    slots: Ints
    lengths: Ints
    ends: Ints
    rooms: Ints
    kept: list[bool] = field(default_factory=list)
    prompts: bool = False


class SessionSteps(Protocol):
    """A session, and the cache that books who has which part of it."""

    step_tokens: int
    """How many tokens a step should take at most."""

    @property
    def cache(self) -> SequenceCache:
        """What books the session's caches."""
        ...

    def split(self, chunks: ListOf[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
        """Those of some chunks that are best computed in one step now, and the others."""
        ...

    def run(self, chunks: ListOf[Chunk]) -> tuple[list[Sequence], Tensor]:
        """Compute the next tokens of some sequences in one step.

        Returns:
            The sequences all of whose tokens have been computed, and the logits after them, `[sequences, vocabulary]`.
        """
        ...

    def run_every(self, chunk: Chunk) -> Tensor:
        """Compute the next tokens of one sequence; returns the logits after each of them, `[tokens, vocabulary]`."""
        ...

    def copy(self, copies: Copies) -> None:
        """Make copies within the caches, all at once."""
        ...

    def begin(self, chunks: ListOf[Chunk]) -> Begun | None:
        """Begin to compute the next tokens of some sequences, in any order.

        Returns:
            The step; None, and nothing has begun, if the session has to wait for each step, or no sequence would have
            all of its tokens in the caches.
        """
        ...

    def go_on(self, after: Begun, going: npt.NDArray[np.bool_], chunks: ListOf[Chunk] = ()) -> Begun:
        """Begin the step after one whose tokens are not known yet.

        Whoever learns these says so to the cache (`filled_each`).

        Args:
            after: the step before.
            going: which of its sequences go on with the token that it chooses; there must be room for it.
            chunks: more sequences, whose tokens are known; with the others they are one or more.
        """
        ...


def open_steps(
    executor: Executor, sequences: int, longest: int, cache_tokens: int | None = None, *, spare: bool = False
) -> SessionSteps:
    """A new session of an executor, over blocks if its caches are paged, else over rows.

    Args:
        executor: what runs the model.
        sequences: how many sequences there can be at once.
        longest: how many tokens a sequence may have.
        cache_tokens: how many tokens paged caches hold, rounded up to whole blocks; if None, those of so many
            sequences, or as many as there is memory for.
        spare: whether there may be more blocks than the sequences need, to share the beginnings of texts that have
            ended.

    Raises:
        RequestError: if the engine was not built for so many, or the memory does not suffice.
    """
    if not isinstance(executor, PagedExecutor) or executor.block is None:
        return RowSteps(executor.open(sequences, longest))
    block = executor.block
    needed = blocks_of_rows(sequences, longest, block)
    if cache_tokens is not None:
        given = -(-cache_tokens // block)
        blocks = given if spare else min(given, needed)
    else:
        most = most_blocks(executor.block_memory())
        blocks = needed if most is None else max(1, min(needed, most))
    return BlockSteps(executor.open_paged(blocks), sequences=sequences, longest=longest)


class RowSteps:
    """Padded steps over the rows of a linear session. See `SessionSteps`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.cache = RowCache(session.batch, session.capacity)
        self.step_tokens = STEP_TOKENS

    def split(self, chunks: ListOf[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
        """See `SessionSteps.split`: single tokens of all rows, then rows whose tokens need little padding."""
        single = [chunk for chunk in chunks if chunk[1] == 1]
        if single:
            return single, [chunk for chunk in chunks if chunk[1] > 1]
        first, *others = padded_little(chunks, self.cache)
        return first, [chunk for group in others for chunk in group]

    def run(self, chunks: ListOf[Chunk]) -> tuple[list[Sequence], Tensor]:
        """See `SessionSteps.run`: a step over the rows from the first of them to the last."""
        first, logits = self._logits(chunks, every=False)
        done = [sequence for sequence, _ in chunks if not sequence.pending]
        rows = [self.cache.rows[sequence] - first for sequence in done]
        return done, logits[:, 0] if rows == list(range(len(logits))) else logits[rows, 0]

    def run_every(self, chunk: Chunk) -> Tensor:
        """See `SessionSteps.run_every`."""
        return self._logits([chunk], every=True)[1][0]

    def copy(self, copies: Copies) -> None:
        """See `SessionSteps.copy`."""
        if copies.sources:
            self.session.copy_rows(*copies)

    def begin(self, chunks: ListOf[Chunk]) -> Begun | None:
        """See `SessionSteps.begin`: it waits."""
        return None

    def go_on(self, after: Begun, going: npt.NDArray[np.bool_], chunks: ListOf[Chunk] = ()) -> Begun:
        """See `SessionSteps.go_on`: nothing has begun."""
        raise AssertionError("rows wait for each step")

    def _logits(self, chunks: ListOf[Chunk], *, every: bool) -> tuple[int, Tensor]:
        """Compute a step; returns its first row, and the logits `[rows, positions, vocabulary]`."""
        places = [self.cache.rows[sequence] for sequence, _ in chunks]
        first = min(places)
        rows, length = max(places) + 1 - first, max(count for _, count in chunks)
        tokens, past, new = [[0] * length] * rows, [0] * rows, [0] * rows
        for (sequence, count), place in zip(chunks, places, strict=True):
            at, start = place - first, sequence.cached
            tokens[at] = sequence.tokens[start : start + count] + [0] * (length - count)
            past[at], new[at] = start, count
        token_ids, past_len, new_len = (torch.tensor(values, dtype=torch.int32) for values in (tokens, past, new))
        wanted = all_positions(rows, length) if every else last_positions(new_len)
        logits = self.session.step(Step(token_ids, past_len, new_len, wanted), first)
        for sequence, count in chunks:
            self.cache.filled(sequence, count)
        return first, logits


def padded_little(chunks: ListOf[Chunk], cache: RowCache) -> list[list[Chunk]]:
    """Chunks in groups of rows that follow one another, which can run as one step with little padding."""
    groups: list[list[Chunk]] = []
    last = -1
    for row, chunk in sorted(((cache.rows[chunk[0]], chunk) for chunk in chunks), key=lambda each: each[0]):
        if groups and row == last + 1 and _pads_little([*groups[-1], chunk]):
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
        last = row
    return groups


def _pads_little(chunks: ListOf[Chunk]) -> bool:
    counts = [count for _, count in chunks]
    padding = max(counts) * len(counts) - sum(counts)
    return padding <= max(_PADDING_TOKENS, int(_PADDING_SHARE * sum(counts)))


class BlockSteps:
    """Packed steps over the blocks of a paged session. See `SessionSteps`.

    Args:
        session: the session.
        sequences: how many sequences there can be at once.
        longest: how many tokens a sequence may have.
    """

    def __init__(self, session: PagedSession, *, sequences: int, longest: int) -> None:
        self.session, self.step_tokens = session, session.step_tokens
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

    def begin(self, chunks: ListOf[Chunk]) -> Begun | None:
        """See `SessionSteps.begin`."""
        if not isinstance(self.session, StepsAhead) or not any(count == each.pending for each, count in chunks):
            return None
        return self._begin(self.session, _Ahead.nothing(), chunks)

    def go_on(self, after: Begun, going: npt.NDArray[np.bool_], chunks: ListOf[Chunk] = ()) -> Begun:
        """See `SessionSteps.go_on`."""
        assert isinstance(self.session, StepsAhead)
        begun = self._begin(self.session, _Ahead.of(after, going), chunks)
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
