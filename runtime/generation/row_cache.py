"""Which rows of linear caches hold what, so that what several texts begin with is computed once."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as ListOf

from runtime.generation.cache import LEAST_SHARED, PendingCopies
from runtime.generation.sequence import Sequence, SequenceGroup, common_length

NO_ROW = -1


class RowCache:
    """The rows of a session. A row belongs to a sequence, or is free and still holds the tokens of its last one.

    See `runtime.generation.cache.SequenceCache`.

    Args:
        rows: how many there are.
        capacity: how many tokens a row holds.

    Attributes:
        owners: the sequence of each row; None for a free one.
        rows: the row of each sequence that has one.
        free: how many rows are free.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self.owners: list[Sequence | None] = [None] * rows
        self.rows: dict[Sequence, int] = {}
        self.free = rows
        self.copies = PendingCopies()
        self._capacity = capacity
        self._left: list[list[int]] = [[] for _ in range(rows)]

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self.owners)

    def check(self, group: SequenceGroup) -> None:
        """See `SequenceCache.check`: what fits the engine's limits fits its rows."""

    def contents(self, row: int) -> ListOf[int]:
        """The tokens whose keys and values a row holds."""
        owner = self.owners[row]
        return self._left[row] if owner is None else owner.tokens[: owner.cached]

    def shared_length(self, tokens: ListOf[int]) -> int:
        """See `SequenceCache.shared_length`."""
        return self._longest_shared(tokens)[1]

    def shareable(self, common: int) -> int:
        """See `SequenceCache.shareable`: a row is copied, which takes as long as to compute a few tokens."""
        return common if common >= LEAST_SHARED else 0

    def admits(self, group: SequenceGroup, without: ListOf[Sequence] = ()) -> bool:
        """See `SequenceCache.admits`: each sequence takes a row."""
        return self.free + len(without) >= len(group.sequences)

    def take(self, group: SequenceGroup, *, share: bool) -> None:
        """See `SequenceCache.take`."""
        first, *others = group.sequences
        source, length = self._longest_shared(first.tokens) if share else (NO_ROW, 0)
        row = self._take(first, near=source)
        for other in others:
            self._take(other)
        if length:
            self.copies.add(source, row)
            first.cached = length

    def reserve(self, sequence: Sequence, more: int = 0) -> bool:
        """See `SequenceCache.reserve`: a row holds as many tokens as a sequence may have."""
        return len(sequence.tokens) <= sequence.room

    def share(self, first: Sequence, others: ListOf[Sequence], length: int) -> None:
        """See `SequenceCache.share`."""
        for other in others:
            self.copies.add(self.rows[first], self.rows[other])
            other.cached = length

    def reorder(self, sequences: ListOf[Sequence], sources: ListOf[int]) -> None:
        """See `SequenceCache.reorder`: as many as can keep a row that is right already."""
        rows = [self.rows[sequence] for sequence in sequences]
        taken: dict[int, int] = {}
        for beam, source in enumerate(sources):
            taken.setdefault(source, beam)
        keeps = {beam: rows[source] for source, beam in taken.items()}
        left = iter([row for beam, row in enumerate(rows) if beam not in taken])
        new = [keeps[beam] if beam in keeps else next(left) for beam in range(len(rows))]
        # A row that is copied keeps what it holds, so the copies may be added one by one.
        for source, row in zip(sources, new, strict=True):
            if rows[source] != row:
                self.copies.add(rows[source], row)
        for sequence, row in zip(sequences, new, strict=True):
            self.owners[row] = sequence
            self.rows[sequence] = row

    def filled(self, sequence: Sequence, count: int) -> None:
        """See `SequenceCache.filled`."""
        sequence.cached += count

    def filled_each(self, sequences: Iterable[Sequence]) -> None:
        """See `SequenceCache.filled_each`."""
        for sequence in sequences:
            sequence.cached += 1

    def release(self, sequence: Sequence) -> None:
        """See `SequenceCache.release`: its tokens stay known until another sequence takes the row."""
        row = self.rows.pop(sequence)
        self._left[row] = sequence.tokens[: sequence.cached]
        self.owners[row] = None
        self.free += 1
        sequence.room = sequence.cached = 0

    def forget(self) -> None:
        """See `SequenceCache.forget`."""
        self._left = [[] for _ in self.owners]
        self.copies.take()

    def _longest_shared(self, tokens: ListOf[int]) -> tuple[int, int]:
        """The row that holds most of the beginning of a text, but not all of it; and how many tokens that is."""
        best = (NO_ROW, 0)
        for row in range(len(self.owners)):
            length = min(common_length(tokens, self.contents(row)), len(tokens) - 1)
            if length > best[1]:
                best = (row, length)
        return best if self.shareable(best[1]) else (NO_ROW, 0)

    def _take(self, sequence: Sequence, near: int = NO_ROW) -> int:
        """Give a sequence a free row: `near` if it is free, else the one whose contents are of the least use.

        Rows at the beginning come first, so that few rows without sequences lie between those that have one.
        """
        if near != NO_ROW and self.owners[near] is None:
            row = near
        else:
            empty = (row for row, owner in enumerate(self.owners) if owner is None and not self._left[row])
            row = next(empty, NO_ROW)
            if row == NO_ROW:
                row = next(row for row, owner in enumerate(self.owners) if owner is None)
        self.owners[row] = sequence
        self.rows[sequence] = row
        self._left[row] = []
        self.free -= 1
        sequence.room = self._capacity
        return row
