"""Steps of sessions over sequences that have places in their caches."""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from typing import NamedTuple, Protocol

import numpy as np
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

Chunk = tuple[Sequence, int]
"""A sequence, and how many of its next tokens are to be computed."""

# Rows whose numbers of tokens differ run together as long as no more than this is padding: to read the weights once
# more takes a CPU as long as some tokens do.
_PADDING_TOKENS = 32
_PADDING_SHARE = 0.2


class Begun(NamedTuple):
    """A step in which every sequence gets one token, and that may still be running.

    Attributes:
        sequences: the sequences, in the order of their tokens in the step.
        chosen: the most likely next tokens.
    """

    sequences: list[Sequence]
    chosen: Chosen


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

    def begin(self, sequences: ListOf[Sequence], after: Begun | None = None) -> Begun | None:
        """Begin to compute the next token of each of some sequences; None if the session has to wait for each step.

        Args:
            sequences: the sequences, in any order.
            after: the step before, if its tokens are not known yet; these are computed, and whoever learns them says
                so to the cache (`filled`). None if all tokens are known.
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

    def begin(self, sequences: ListOf[Sequence], after: Begun | None = None) -> Begun | None:
        """See `SessionSteps.begin`: it waits."""
        return None

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
        ordered = sorted(chunks, key=lambda chunk: self.cache.slot(chunk[0]))
        logits = self._logits(ordered, every=False)
        return [sequence for sequence, _ in ordered if not sequence.pending], logits

    def run_every(self, chunk: Chunk) -> Tensor:
        """See `SessionSteps.run_every`."""
        return self._logits([chunk], every=True)

    def copy(self, copies: Copies) -> None:
        """See `SessionSteps.copy`."""
        if copies.sources:
            self.session.copy_blocks(*copies)

    def begin(self, sequences: ListOf[Sequence], after: Begun | None = None) -> Begun | None:
        """See `SessionSteps.begin`."""
        if not isinstance(self.session, StepsAhead):
            return None
        ordered = sorted(sequences, key=self.cache.slot)
        places = {sequence: -1 - at for at, sequence in enumerate(after.sequences)} if after is not None else {}
        ids = [places[each] if places else each.tokens[-1] for each in ordered]
        positions = [len(each.tokens) - (0 if places else 1) for each in ordered]
        rows = [self.cache.slot(each) for each in ordered]
        begun = Begun(ordered, self.session.step_ahead(self._step(ids, positions, rows, range(len(ids)))))
        if after is None:
            for sequence in ordered:
                self.cache.filled(sequence, 1)
        return begun

    def _step(self, ids: ListOf[int], positions: ListOf[int], rows: ListOf[int], wanted: ListOf[int]) -> PackedStep:
        """A step over sequences in the order of their slots, which are the rows."""
        width = max(positions) // self.cache.block + 1
        tables = self.cache.tables[: rows[-1] + 1, :width]
        fields = (np.array(each, dtype=np.int32) for each in (ids, positions, rows, tables, wanted))
        return PackedStep(*map(torch.from_numpy, fields))

    def _logits(self, chunks: ListOf[Chunk], *, every: bool) -> Tensor:
        """Compute a step over sequences in the order of their slots."""
        ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        wanted: list[int] = []
        for sequence, count in chunks:
            start = sequence.cached
            stop = start + count
            ids += sequence.tokens[start:stop]
            positions += range(start, stop)
            rows += [self.cache.slot(sequence)] * count
            if every:
                wanted += range(len(ids) - count, len(ids))
            elif stop == len(sequence.tokens):
                wanted.append(len(ids) - 1)
        logits = self.session.step(self._step(ids, positions, rows, wanted))
        for sequence, count in chunks:
            self.cache.filled(sequence, count)
        return logits
