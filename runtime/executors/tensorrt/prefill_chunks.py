"""Cutting the new tokens of a row into chunks that plans run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count as counter
from typing import Generic, Protocol, TypeVar

# A run reads all weights, which takes a GPU about as long as its arithmetic for this many tokens does.
_RUN = 256


class ChunkRunner(Protocol):
    """What runs chunks of one row.

    Attributes:
        width: the fewest and the most tokens of a run.
        logits: the fewest and the most wanted positions of a run.
    """

    @property
    def width(self) -> tuple[int, int]: ...

    @property
    def logits(self) -> tuple[int, int]: ...


R = TypeVar("R", bound=ChunkRunner)


@dataclass(frozen=True)
class PrefillChunk(Generic[R]):
    """Some of a row's new tokens.

    Attributes:
        runner: what runs them.
        start: the first of them.
        end: the one after the last.
        width: the tokens of the run, padding included.
        logits: the positions of the run, padding included.
    """

    runner: R
    start: int
    end: int
    width: int
    logits: int


def cheapest_chunks(runners: Sequence[R], count: int, wanted: Sequence[int]) -> tuple[PrefillChunk[R], ...]:
    """The cheapest way to run `count` tokens, of which only the last chunk is padded; empty if there is none.

    Args:
        runners: what there is to run chunks; of two that cost the same, the first is taken.
        count: how many tokens there are.
        wanted: the positions whose logits are wanted, in order, each once.
    """
    order = counter()  # ties are settled before chunks are compared
    open_ends: list[tuple[int, int, int, tuple[PrefillChunk[R], ...]]] = [(0, next(order), 0, ())]
    reached: set[int] = set()
    while open_ends:
        cost, _, start, chunks = heappop(open_ends)
        if start == count:
            return chunks
        if start in reached:
            continue
        reached.add(start)
        for chunk in _next_chunks(runners, start, count, wanted):
            heappush(open_ends, (cost + _RUN + chunk.width, next(order), chunk.end, (*chunks, chunk)))
    return ()


def _next_chunks(runners: Sequence[R], start: int, count: int, wanted: Sequence[int]) -> Iterator[PrefillChunk[R]]:
    """What each runner can take from `start` on: as much as fits."""
    for runner in runners:
        (least, most), (fewest, highest) = runner.width, runner.logits
        end = min(start + most, count)
        logits = bisect_left(wanted, end) - bisect_left(wanted, start)
        if logits <= highest:
            yield PrefillChunk(runner, start, end, max(end - start, least), max(logits, fewest))
