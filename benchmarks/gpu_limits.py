"""What a GPU can do at best, measured: the bandwidth of its memory, and the rate of its matrix units."""

from __future__ import annotations

from collections.abc import Callable

import torch


def bandwidth() -> float:
    """Bytes a second at which the GPU sums a large array."""
    array = torch.ones(2**14, 2**16, device="cuda")
    return array.nbytes / fastest(lambda: array.sum(1))


def matrix_peak(size: int = 8192) -> float:
    """Operations a second of a large product of float16."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(2))
    return 2.0 * size**3 / fastest(lambda: a @ b, turns=12)


def fastest(call: Callable[[], object], turns: int = 6) -> float:
    """The least seconds that a call takes on the GPU."""
    best = float("inf")
    for _ in range(turns):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3)
    return best
