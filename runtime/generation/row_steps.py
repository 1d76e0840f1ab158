"""Padded steps over the rows of a linear session."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListOf

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compiler.ir.step import Step, all_positions, last_positions
from runtime.executors.interface import Session
from runtime.executors.paged import STEP_TOKENS
from runtime.generation.cache import Copies
from runtime.generation.row_cache import RowCache
from runtime.generation.sequence import Sequence
from runtime.generation.session_steps import Begun, Chunk

# Rows whose numbers of tokens differ run together as long as no more than this is padding: to read the weights once
# more takes a CPU as long as some tokens do.
_PADDING_TOKENS = 32
_PADDING_SHARE = 0.2


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

    def warm_up(self, sequences: int, longest: int, done: Callable[[int, int], None]) -> None:
        """See `SessionSteps.warm_up`: nothing."""

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
