"""What is measured of everything that extends prompts on a GPU: steps, prompts, throughput. Imports nothing of llmc."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Run = Callable[[list[list[int]], int], object]
"""Extends prompts, each by so many tokens, and returns when all are there."""

What = Literal["step", "prompt", "throughput"]
PROMPT, FEW, MANY = 128, 16, 128
_TURNS = 2


class Figure(NamedTuple):
    """A figure: milliseconds of a step, or of a prompt until its first new token; or tokens a second."""

    what: What
    batch: int
    value: float


@dataclass(frozen=True)
class Load:
    """What is asked for.

    Attributes:
        vocabulary: how many token ids there are.
        batches: how many sequences decode at once, a measurement each.
        prompt: the tokens of the prompt whose first new token is waited for; 0 for no such measurement.
        requests: how many requests there are for the throughput; 0 for no such measurement.
        at_once: how many of them run at once.
        many: the tokens of the long texts whose times give that of a step.
    """

    vocabulary: int
    batches: tuple[int, ...] = (1, 8, 64)
    prompt: int = 0
    requests: int = 0
    at_once: int = 256
    many: int = MANY

    @property
    def widest(self) -> int:
        """How many sequences run at once at most."""
        return max([*self.batches, *([self.at_once] if self.requests else [])], default=1)

    @property
    def longest(self) -> int:
        """How many tokens a sequence has at most."""
        return max(PROMPT + MANY, self.prompt + 1)


def measure(run: Run, load: Load, *, warm: int = 2) -> Iterator[Figure]:
    """All figures of a load, as they are found.

    Args:
        run: what is measured.
        load: what is asked for.
        warm: how often each size runs before it is timed.
    """
    draw = random.Random(1)

    def seconds(count: int, length: int, new: int) -> float:
        ids = [[draw.randrange(3, load.vocabulary) for _ in range(length)] for _ in range(count)]
        start = time.perf_counter()
        run(ids, new)
        return time.perf_counter() - start

    for batch in load.batches:
        for _ in range(warm):
            seconds(batch, PROMPT, load.many)
        few, many = (min(seconds(batch, PROMPT, new) for _ in range(_TURNS)) for new in (FEW, load.many))
        yield Figure("step", batch, (many - few) / (load.many - FEW) * 1e3)
    if load.prompt:
        for _ in range(warm):
            seconds(1, load.prompt, 1)
        yield Figure("prompt", 1, min(seconds(1, load.prompt, 1) for _ in range(_TURNS + 1)) * 1e3)
    if load.requests:
        seconds(load.requests, PROMPT, MANY)  # what is compiled and captured, by whoever does so, is not measured
        yield Figure("throughput", load.at_once, load.requests * MANY / seconds(load.requests, PROMPT, MANY))
