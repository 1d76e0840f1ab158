"""A mixed load of requests, and the figures of how it was served."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

PROMPT, OUTPUT = (16, 512), (8, 256)
"""How many tokens prompts and outputs have, at least and at most."""


@dataclass
class Served:
    """One request: when it comes, and when its tokens came.

    Attributes:
        prompt: the prompt's token ids.
        new_tokens: how many tokens it gets.
        arrival: when it comes, in seconds after the beginning.
        times: when each of its tokens came.
        tokens: the tokens.
    """

    prompt: list[int]
    new_tokens: int
    arrival: float
    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def take(self, token: int, seconds: float) -> None:
        """Take up a token; those beyond its number, which a static batch computes, do not count."""
        if len(self.tokens) < self.new_tokens:
            self.tokens.append(token)
            self.times.append(seconds)

    @property
    def first(self) -> float:
        """Seconds from its arrival to its first token."""
        return self.times[0] - self.arrival

    @property
    def per_token(self) -> float:
        """Milliseconds per token after the first."""
        return (self.times[-1] - self.times[0]) / max(1, len(self.times) - 1) * 1e3


@dataclass(frozen=True)
class Lengths:
    """How many tokens prompts and outputs have, at least and at most."""

    prompt: tuple[int, int] = PROMPT
    output: tuple[int, int] = OUTPUT

    @property
    def longest(self) -> int:
        """How many tokens a sequence has at most."""
        return self.prompt[1] + self.output[1]

    @property
    def mean_output(self) -> float:
        """How many tokens an output has on average."""
        return sum(self.output) / 2

    @classmethod
    def within(cls, context: int) -> Lengths:
        """The lengths, in proportion where a model has learned too few positions for them."""
        whole = cls()
        share = min(1.0, context / whole.longest)
        return cls((PROMPT[0], int(PROMPT[1] * share)), (OUTPUT[0], int(OUTPUT[1] * share)))


def load_of(count: int, vocabulary: int, rate: float, lengths: Lengths, seed: int) -> list[Served]:
    """Requests with random prompts and lengths.

    Args:
        count: how many.
        vocabulary: token ids are below it.
        rate: how many come per second on average, at random times (Poisson); infinite for all at once.
        lengths: of prompts and outputs, which are uniform.
        seed: what all draws follow from.
    """
    draw = random.Random(seed)
    arrival, requests = 0.0, []
    for _ in range(count):
        arrival += draw.expovariate(rate) if rate != float("inf") else 0.0
        prompt = [draw.randrange(1, vocabulary) for _ in range(draw.randint(*lengths.prompt))]
        requests.append(Served(prompt, draw.randint(*lengths.output), arrival))
    return requests


@dataclass(frozen=True)
class Figures:
    """How a load was served: times are medians and 95th percentiles over requests."""

    tokens_per_second: float
    first_token_s: tuple[float, float]
    ms_per_token: tuple[float, float]

    @classmethod
    def of(cls, requests: Sequence[Served], seconds: float) -> Figures:
        """The figures of requests that were served within so many seconds."""
        tokens = sum(len(request.tokens) for request in requests)
        firsts, each = ([getattr(request, name) for request in requests] for name in ("first", "per_token"))
        return cls(tokens / seconds, _median_and_late(firsts), _median_and_late(each))

    @classmethod
    def median(cls, turns: Iterable[Figures]) -> Figures:
        """The median of each figure over turns."""
        columns = zip(*(list(figures.numbers()) for figures in turns), strict=True)
        rate, first, late, token, slow = (statistics.median(column) for column in columns)
        return cls(rate, (first, late), (token, slow))

    def numbers(self) -> Iterator[float]:
        """All figures, in order."""
        yield from (self.tokens_per_second, *self.first_token_s, *self.ms_per_token)

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        names = ("tokens_per_second", "first_token_s", "first_token_s_p95", "ms_per_token", "ms_per_token_p95")
        return {name: round(number, 4) for name, number in zip(names, self.numbers(), strict=True)}


def _median_and_late(values: Sequence[float]) -> tuple[float, float]:
    return statistics.median(values), sorted(values)[round(0.95 * (len(values) - 1))]
