"""What a decode step must read from memory, and how fast this machine's memory is: together the least time of a token.

To write one more token of each sequence, all weights are read once and the caches of every sequence are. Nothing is
faster than that; how near to it an engine comes says how good its form is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from compiler.ir.analysis import stored_values
from compiler.ir.graph import Graph
from compiler.ir.paged_layout import PagedLayout, layout_of
from compiler.ir.step import dim_sizes

if TYPE_CHECKING:
    import torch

_ARRAY_BYTES = 2**28
"""The array that is read to measure a CPU's memory: more than its caches hold."""

# Bytes a second of a GPU's memory, by a part of the name that CUDA gives the GPU; the first that fits counts.
_GPUS = {
    "H200": 4.8e12, "GH200": 4.0e12, "H100 NVL": 3.9e12, "H100 PCIe": 2.0e12, "H100": 3.35e12, "H800": 3.35e12,
    "H20": 4.0e12, "B200": 8.0e12, "A100-SXM4-80GB": 2.0e12, "A100 80GB": 1.9e12, "A100": 1.55e12, "A800": 2.0e12,
    "A40": 0.70e12, "A30": 0.93e12, "A10G": 0.60e12, "A10": 0.60e12, "L40S": 0.86e12, "L40": 0.86e12, "L4": 0.30e12,
    "T4": 0.32e12, "V100": 0.90e12, "RTX PRO 6000": 1.8e12, "RTX 6000 Ada": 0.96e12, "RTX A6000": 0.77e12,
    "RTX 5090": 1.8e12, "RTX 5080": 0.96e12, "RTX 4090": 1.0e12, "RTX 4080": 0.72e12, "RTX 3090": 0.94e12,
}  # fmt: skip


@dataclass(frozen=True)
class StepBytes:
    """How many bytes a decode step reads at least, in the element types of the graph.

    Attributes:
        weights: those of the weights, however many sequences there are. Of tables of embeddings a step reads a few rows
            only, which do not count.
        cache_per_token: those of the caches, for each token that a sequence has.
    """

    weights: int = 0
    cache_per_token: int = 0

    def read(self, sequences: int, tokens: float) -> float:
        """The bytes of a step in which so many sequences, of so many tokens each, get one more token."""
        return self.weights + sequences * tokens * self.cache_per_token


@dataclass(frozen=True)
class Bandwidth:
    """How fast memory is read.

    Attributes:
        bytes_per_second: the rate.
        source: where the figure is from, such as `measured on this CPU`.
    """

    bytes_per_second: float
    source: str


def step_bytes(graph: Graph) -> StepBytes:
    """What a step of a graph reads; of a graph that several ranks share, what each stage's rank reads, one by one."""
    stored = stored_values(graph)
    read: dict[str, int] = {}
    for op in graph.ops:
        if any(value.name in stored for value in op.results):
            continue
        operands = op.operands[1:] if op.kind.name == "embedding" else op.operands
        read |= {value.name: value.type.nbytes for value in operands if value.name in stored}
    return StepBytes(sum(read.values()), cache_bytes_per_token(graph))


def bytes_of_ranks(ranks: Sequence[StepBytes], tp: int, *, one_memory: bool) -> StepBytes:
    """What a step reads in turn: of ranks that work at once those of the busiest, of stages all.

    Args:
        ranks: what each rank reads, those of a stage next to each other.
        tp: how many ranks a stage has.
        one_memory: whether all ranks read one memory, as on the CPU of one machine, so that none is read at once.
    """
    if one_memory:
        return StepBytes(sum(rank.weights for rank in ranks), sum(rank.cache_per_token for rank in ranks))
    stages = [ranks[start : start + tp] for start in range(0, len(ranks), tp)]
    return StepBytes(
        sum(max(rank.weights for rank in stage) for stage in stages),
        sum(max(rank.cache_per_token for rank in stage) for stage in stages),
    )


def cache_bytes_per_token(graph: Graph) -> int:
    """Bytes of the caches for one token of one sequence."""
    states, layout = graph.states(), layout_of(graph)
    sizes, tokens = {name: dim.max for name, dim in graph.dims.items()} | dim_sizes(batch=1, capacity=1), 1
    if isinstance(layout, PagedLayout):
        sizes, tokens = sizes | dim_sizes(blocks=1), layout.block
    return sum(prod(value.type.sizes(sizes)) * value.type.dtype.bits // 8 for value, _ in states.values()) // tokens


@lru_cache(maxsize=1)
def usual_bandwidth() -> Bandwidth | None:
    """The rate of the memory that an engine will be in if it runs here, told within a fraction of a second.

    That of the first GPU is looked up in a table, so that nothing runs there; None if the table does not have it. Where
    there is no GPU, that of the CPU is measured.
    """
    import torch

    if not torch.cuda.is_available():
        return Bandwidth(measured_bandwidth("cpu", size=_ARRAY_BYTES // 2, repeats=3), "measured on this CPU")
    name = torch.cuda.get_device_name(0)
    rate = next((rate for part, rate in _GPUS.items() if part in name), None)
    return None if rate is None else Bandwidth(rate, f"{name}, by its data sheet")


def measured_bandwidth(device: str | torch.device, *, size: int | None = None, repeats: int = 7) -> float:
    """Bytes a second at which a device sums a large array, with all threads of a CPU: the best of some tries.

    Args:
        device: the device.
        size: the bytes of the array; more than caches hold if None.
        repeats: how many tries.
    """
    import torch

    place = torch.device(device)
    size = size or (_ARRAY_BYTES if place.type == "cpu" else 16 * _ARRAY_BYTES)
    array = torch.ones(64, size // 256, device=place)
    best = float("inf")
    for _ in range(repeats):
        if place.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            array.sum(1)
            end.record()
            end.synchronize()
            seconds = start.elapsed_time(end) / 1e3
        else:
            began = time.perf_counter()
            array.sum()
            seconds = time.perf_counter() - began
        best = min(best, seconds)
    return array.nbytes / best
