"""TensorRT's progress, as one count."""

from __future__ import annotations

from threading import Lock
from typing import Any

from compiler.progress import Report


def progress_monitor(trt: Any, progress: Report) -> Any:
    """An `IProgressMonitor` that reports the steps of all phases together, whose total grows as it finds more to do."""

    # TensorRT calls it from several threads.
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
