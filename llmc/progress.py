"""How long work reports where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from compiler.progress import Report

Progress = Callable[[str, int, int], None]
"""Called with a stage, and how much of it is done and in total; a total of 0 for a stage that is not measured yet.

Within a stage `done` grows, unless its work begins again at 0, and at the end it is the total. The stage may be a
`Phase`, which says more.
"""

Stage = Callable[[str], AbstractContextManager[Report]]
"""Opens a stage of that name, and gives what reports its progress."""


class Phase(str):
    """The name of a stage, and what of it is in work.

    Attributes:
        detail: such as the pass that runs; empty for nothing in particular.
    """

    __slots__ = ("detail",)
    detail: str

    def __new__(cls, name: str, detail: str = "") -> Phase:
        """The stage `name`, in which `detail` is in work."""
        phase = super().__new__(cls, name)
        phase.detail = detail
        return phase


class Stages:
    """Passes progress on, and sees to it that a stage that ends has reached its total. Call it as a `Progress`."""

    def __init__(self, progress: Progress | None) -> None:
        """Report to `progress`, if anybody listens."""
        self._progress = progress
        self._totals: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See `Progress`."""
        self._totals[str(stage)] = total
        if self._progress is not None:
            self._progress(stage, done, total)

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        """A block that is a stage of work; yields its own progress function."""
        self(name, 0, 0)
        yield lambda done, total: self(name, done, total)
        total = self._totals[name] or 1
        self(name, total, total)


def counter(report: Report, total: int) -> Callable[[int], None]:
    """A function to call with each amount done, which reports the sum."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    return advance
