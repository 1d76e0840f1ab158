"""TensorRT's progress, as one count."""

from __future__ import annotations

from threading import Lock
from typing import Any

from compiler.progress import Report

_SHARES = 100


def progress_monitor(trt: Any, progress: Report) -> Any:
    """An `IProgressMonitor` that reports the steps of all phases together. TensorRT calls it from several threads.

    The total grows as TensorRT finds more to do.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = Lock()
            self._phases: dict[str, tuple[int, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self._set(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._set(phase_name, step + 1, self._phases.get(phase_name, (0, step + 1))[1])
            return True

        def phase_finish(self, phase_name: str) -> None:
            total = self._phases.get(phase_name, (0, 0))[1]
            self._set(phase_name, total, total)

        def _set(self, phase: str, done: int, total: int) -> None:
            with self._lock:
                self._phases[phase] = (done, total)
                all_done, all_total = (sum(pair[i] for pair in self._phases.values()) for i in (0, 1))
            progress(all_done, all_total)

    return Monitor()


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
