"""What the scheduler asks of the caches: room for sequences, and that what several texts begin with is computed once.

There are two kinds. A linear session gives each sequence a row (`row_cache`), a paged one blocks (`block_cache`).
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as ListOf
from typing import NamedTuple, Protocol

from runtime.generation.sequence import Sequence, SequenceGroup

# A beginning of fewer tokens than this is not worth waiting for until another sequence has computed it, nor a copy.
LEAST_SHARED = 16


class Copies(NamedTuple):
    """Parts of the caches, rows or blocks, that are to be copied all at once.

    Attributes:
        sources: what is copied.
        destinations: for each of them what becomes a copy of it; each is there once.
    """

    sources: list[int]
    destinations: list[int]


class PendingCopies:
    """Copies that are collected until the next step, before which they are all made at once."""

    def __init__(self) -> None:
        self._sources: dict[int, int] = {}

    def add(self, source: int, destination: int) -> None:
        """Let `destination` become what `source` is after the copies that were added before."""
        origin = self._sources.get(source, source)
        if origin == destination:
            self._sources.pop(destination, None)
        else:
            self._sources[destination] = origin

    def take(self) -> Copies:
        """The copies collected so far, which are to be made now."""
        copies = Copies([*self._sources.values()], [*self._sources])
        self._sources.clear()
        return copies


class SequenceCache(Protocol):
    """Room for the keys and values of sequences, as its owner books it; nothing is computed or copied here.

    A sequence that has a place in it knows as `Sequence.room` for how many tokens there is room, and as
    `Sequence.cached` how many are there.

    Attributes:
        copies: what is to be copied before the next step.
    """

    copies: PendingCopies

    @property
    def size(self) -> int:
        """How many rows, or blocks, there are."""
        ...

    @property
    def free(self) -> int:
        """How many rows, or blocks, no sequence has: all of them if nothing is in progress."""
        ...

    def check(self, group: SequenceGroup) -> None:
        """RequestError, with the mend, if a request cannot be served even if there is no other."""
        ...

    def shared_length(self, tokens: ListOf[int]) -> int:
        """How many tokens at the beginning of a text are in the caches already; never all, so that one is computed."""
        ...

    def shareable(self, common: int) -> int:
        """Of `common` tokens that two texts begin with, how many the second one need not compute again."""
        ...

    def admits(self, group: SequenceGroup, without: ListOf[Sequence] = ()) -> bool:
        """Whether there is room for a request as far as its tokens are known.

        Args:
            group: the request; its sequences have no places.
            without: sequences whose places would be taken away first.
        """
        ...

    def take(self, group: SequenceGroup, *, share: bool) -> None:
        """Give the sequences of a request places, and its first one room for its tokens; `admits` must hold.

        Args:
            group: the request.
            share: whether its first sequence takes over what the caches hold of its beginning.
        """
        ...

    def reserve(self, sequence: Sequence, more: int = 0) -> bool:
        """Make room for all tokens of a sequence, and for `more`; False, and nothing has changed, if there is none."""
        ...

    def share(self, first: Sequence, others: ListOf[Sequence], length: int) -> None:
        """Let sequences of which nothing is in the caches begin with the `length` first tokens of another one."""
        ...

    def reorder(self, sequences: ListOf[Sequence], sources: ListOf[int]) -> None:
        """Let sequence i go on from what the caches hold of sequence `sources[i]`; all have as many tokens there."""
        ...

    def filled(self, sequence: Sequence, count: int) -> None:
        """So many more tokens of a sequence have been computed."""
        ...

    def filled_each(self, sequences: Iterable[Sequence]) -> None:
        """One more token of each of some sequences has been computed."""
        ...

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's place away. What is there can be shared until the room is used for others."""
        ...

    def forget(self) -> None:
        """Take it that the caches hold nothing, and need no copies; no sequence may have a place."""
        ...
