"""How much memory a process and a GPU hold at most."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class PeakMemory:
    """The most memory that was held since `forget_peaks`.

    Attributes:
        host: bytes that the process held in memory, mapped files among them.
        gpu: bytes that torch held on the current GPU; None without one.
    """

    host: int
    gpu: int | None


def forget_peaks() -> None:
    """Begin to measure anew."""
    with contextlib.suppress(OSError):  # where that is not allowed, peaks are those of the process's whole life
        _CLEAR.write_text("5")
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peaks() -> PeakMemory:
    """The peaks until now."""
    import torch

    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return PeakMemory(_host(), torch.cuda.max_memory_reserved() if used else None)


def _host() -> int:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
