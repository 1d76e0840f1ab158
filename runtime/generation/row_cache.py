"""Which rows of linear caches hold what, so that what several texts begin with is computed once."""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from typing import NamedTuple

from runtime.generation.sequence import NO_ROW, Sequence, common_length

# A prefix of fewer tokens is computed again: a copy would take as long.
LEAST_SHARED = 16


class Shared(NamedTuple):
    """The beginning of a text that is in a row already.

    Attributes:
        row: the row.
        length: how many tokens.
    """

    row: int
    length: int


class RowCache:
    """The rows of a session. A row belongs to a sequence, or is free and still holds the tokens of its last one.

    Args:
        rows: how many there are.
    """

    def __init__(self, rows: int) -> None:
        self.owners: list[Sequence | None] = [None] * rows
        self._left: list[list[int]] = [[] for _ in range(rows)]
        self.free = rows

    def contents(self, row: int) -> ListOf[int]:
        """The tokens whose keys and values a row holds."""
        owner = self.owners[row]
        return self._left[row] if owner is None else owner.tokens[: owner.cached]

    def longest_shared(self, tokens: ListOf[int]) -> Shared:
        """The row that holds most of the beginning of a text, but not all of it: something is left to compute."""
        best = Shared(NO_ROW, 0)
        for row in range(len(self.owners)):
            length = min(common_length(tokens, self.contents(row)), len(tokens) - 1)
            if length > best.length:
                best = Shared(row, length)
        return best if best.length >= LEAST_SHARED else Shared(NO_ROW, 0)

    def take(self, sequence: Sequence, near: int = NO_ROW) -> int:
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
        self._left[row] = []
        self.free -= 1
        sequence.row = row
        return row

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's row away; its tokens stay known until another sequence takes the row."""
        row = sequence.row
        self._left[row] = sequence.tokens[: sequence.cached]
        self.owners[row] = None
        self.free += 1
        sequence.row, sequence.cached = NO_ROW, 0

    def forget(self) -> None:
        """Take it that no row holds anything; none may have an owner."""
        self._left = [[] for _ in self.owners]

    def exchange(self, sequences: ListOf[Sequence], rows: ListOf[int]) -> None:
        """Give sequences, which have these rows in another order, their new rows."""
        for sequence, row in zip(sequences, rows, strict=True):
            self.owners[row] = sequence
            sequence.row = row
