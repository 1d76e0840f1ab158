"""How long work reports where it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Progress = Callable[[str, int, int], None]
"""Called with a stage, and how much of it is done and in total; a total of 0 for a stage that is not measured."""

Report = Callable[[int, int], None]
"""The same for one stage."""

Stage = Callable[[str], AbstractContextManager[Report]]
"""Opens a stage of that name, and gives what reports its progress."""


def counter(report: Report, total: int) -> Callable[[int], None]:
    """A function to call with each amount done, which reports the sum."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    return advance
