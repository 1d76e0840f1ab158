"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

Report = Callable[[int, int], None]
"""Called with how much of a piece of work is done and in total; a total of 0 for what is not measured yet."""

_SHARES = 100


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
