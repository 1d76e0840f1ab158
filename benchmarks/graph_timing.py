"""Times of kernels: calls are captured in a CUDA graph, which is replayed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from runtime.executors.cuda.kernels import dependent

START = time.time()
APART = "GPU_ATTENTION_APART"
"""Tells the processes that compile that kernels are launched one after the other."""
dependent.ENABLED = APART not in os.environ


def say(*parts: object) -> None:
    print(*parts, flush=True)


def time_graph(calls: Sequence[Callable[[], Any]], replays: int = 15) -> float:
    """Microseconds a call, as the median of the replays of a graph of all calls."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        calls[0]()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
    graph.replay()
    times = []
    for _ in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times)


def bandwidth() -> float:
    """Bytes a second that a kernel reads, or a copy moves: what is more."""
    x = torch.empty(2**30, dtype=torch.float32, device="cuda").normal_()
    y = torch.empty_like(x[: 2**28])
    read = x.numel() * 4 / time_graph([lambda: torch.sum(x)], 5)
    moved = 2 * y.numel() * 4 / time_graph([lambda: y.copy_(x[: 2**28])], 5)
    return max(read, moved) * 1e6
