"""How work says how far it is: what it calls."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

Progress = Callable[[str, int, int], None]
"""Called with a phase, and how much of it is done and in total; a total of 0 for a phase that is not measured yet.

Within a phase `done` grows, unless its work begins again at 0, and at the end it is the total. The phase may be an
`llmc.progress.Phase`, which says more.
"""

Report = Callable[[int, int], None]
"""The same for one phase: called with how much is done and in total."""

Advance = Callable[[int], None]
"""The same by steps: called with how much was done since the last call."""

_SHARES = 100


def unheard(done: int, total: int) -> None:
    """The `Report` of work that nobody watches."""


def shared_progress(progress: Report, count: int) -> list[Report]:
    """A progress function for each of several parts of a whole, side by side or one after the other.

    Every part counts for as much as any other, whatever it counts itself in. `progress` hears of the whole, which never
    falls back, even where a part finds that it has more to do than it thought.
    """
    lock = Lock()
    shares = [0] * count

    def reporter(index: int) -> Report:
        def report(done: int, total: int) -> None:
            share = min(_SHARES, _SHARES * done // total) if total else 0
            with lock:
                if share > shares[index]:
                    shares[index] = share
                    progress(sum(shares), _SHARES * count)

        return report

    return [reporter(index) for index in range(count)]
