"""Timed runs: what is run, how long its tokens took, and what several runs say together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from llmc.benchmarking.memory import PeakMemory, forget_peaks, peaks


@dataclass(frozen=True)
class Load:
    """What is run: so many sequences at once, with so many tokens in and out."""

    batch: int
    input: int
    output: int

    @property
    def mean_length(self) -> float:
        """How many tokens a sequence has on average in the steps that follow the first."""
        return self.input + self.output / 2


@dataclass(frozen=True)
class Times:
    """The times of one run, in seconds.

    Attributes:
        first: until a sequence's first token, on average; None if a tool does not tell.
        each: for each token after the first, on average; None if a tool does not tell.
        total: until all sequences had ended.
    """

    first: float | None
    each: float | None
    total: float

    @classmethod
    def of(cls, started: float, arrivals: Sequence[Sequence[float]], ended: float) -> Times:
        """The times of a run.

        Args:
            started: when it began.
            arrivals: when the tokens of each sequence came, of one after the other.
            ended: when all was done.
        """
        first = statistics.fmean(own[0] - started for own in arrivals)
        each = [(own[-1] - own[0]) / (len(own) - 1) for own in arrivals if len(own) > 1]
        return cls(first, statistics.fmean(each) if each else None, ended - started)


class Runner(Protocol):
    """What extends prompts.

    Attributes:
        name: what results call it.
        warm_up: how many runs it needs before it is as fast as it gets.
    """

    name: str
    warm_up: int

    def run(self, prompts: Sequence[Sequence[int]], output: int) -> Times:
        """Give each of the prompts, which run at once, exactly so many new tokens."""
        ...


@dataclass(frozen=True)
class Figure:
    """What several runs say: the median, the least and the largest."""

    median: float
    least: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Figure | None:
        """The figure of some values; None if there are none, or one is not known."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        return cls(statistics.median(known), min(known), max(known))


@dataclass(frozen=True)
class Cell:
    """A row of the table: what a runner did with a load.

    Attributes:
        runner: the runner's name.
        load: the load.
        first: seconds until the first token.
        each: seconds for each further token.
        rate: new tokens a second over the whole run, the first included.
        bound: the least seconds for a further token by what must be read; None for runners whose reading is not known.
        memory: the most memory that was held.
    """

    runner: str
    load: Load
    first: Figure | None
    each: Figure | None
    rate: Figure
    bound: float | None
    memory: PeakMemory

    @property
    def share(self) -> float | None:
        """The bound's share of the time of a token; None if either is not known."""
        return self.bound / self.each.median if self.bound and self.each and self.each.median else None

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {
            "runner": self.runner,
            **asdict(self.load),
            "first_token_seconds": self.first and asdict(self.first),
            "token_seconds": self.each and asdict(self.each),
            "tokens_per_second": asdict(self.rate),
            "bound_seconds": self.bound,
            "bound_share": self.share,
            "host_bytes": self.memory.host,
            "gpu_bytes": self.memory.gpu,
        }


def measure(
    runner: Runner,
    load: Load,
    prompts: Callable[[Load], list[list[int]]],
    *,
    repeats: int,
    warm_up: int | None,
    bound: float | None,
    advance: Callable[[int], None],
) -> Cell:
    """Run a load some times, and some times before that which do not count.

    Args:
        runner: what runs it.
        load: the load.
        prompts: makes its prompts.
        repeats: how many runs count.
        warm_up: how many do not; as many as the runner needs if None.
        bound: the least seconds for a further token.
        advance: called with the number of runs that have ended since the last call.
    """
    made = prompts(load)
    forget_peaks()
    for _ in range(runner.warm_up if warm_up is None else warm_up):
        runner.run(made, load.output)
        advance(1)
    times = []
    for _ in range(repeats):
        times.append(runner.run(made, load.output))
        advance(1)
    rates: list[float | None] = [load.batch * load.output / each.total for each in times]
    rate = Figure.of(rates)
    assert rate is not None
    first, each = Figure.of([time.first for time in times]), Figure.of([time.each for time in times])
    return Cell(runner.name, load, first, each, rate, bound, peaks())
