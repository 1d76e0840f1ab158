"""How far work is: phases with names, and what of them is in work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from compiler.progress import Advance, Progress, Report

OpenPhase = Callable[[str], AbstractContextManager[Report]]
"""Opens a phase of that name, and gives what reports its progress."""


class Phase(str):
    """The name of a phase, and what of it is in work.

    Attributes:
        detail: such as the pass that runs; empty for nothing in particular.
    """

    __slots__ = ("detail",)
    detail: str

    def __new__(cls, name: str, detail: str = "") -> Phase:
        """The phase `name`, in which `detail` is in work."""
        phase = super().__new__(cls, name)
        phase.detail = detail
        return phase


class Phases:
    """Passes progress on, and sees to it that a phase that ends has reached its total. Call it as a `Progress`."""

    def __init__(self, progress: Progress | None) -> None:
        """Report to `progress`, if anybody listens."""
        self._progress = progress
        self._totals: dict[str, int] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        """See `Progress`."""
        self._totals[str(phase)] = total
        if self._progress is not None:
            self._progress(phase, done, total)

    @contextmanager
    def phase(self, name: str) -> Iterator[Report]:
        """A block that is a phase of work; yields its own progress function."""
        self(name, 0, 0)
        yield lambda done, total: self(name, done, total)
        total = self._totals[name] or 1
        self(name, total, total)


def counter(report: Report, total: int) -> Advance:
    """A function to call with each amount done, which reports the sum."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    return advance
