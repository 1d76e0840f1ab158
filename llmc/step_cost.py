"""What a decode step must read from memory, and how fast this machine's memory is: together the least time of a token.

To write one more token of each sequence, all weights are read once and the caches of every sequence are. Nothing is
faster than that; how near to it an engine comes says how good its form is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from compiler.errors import RequestError
from compiler.ir.cost import weights_read
from compiler.ir.dtypes import DType
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.paged_layout import PagedLayout, layout_of
from compiler.ir.step import dim_sizes
from compiler.suggest import did_you_mean

if TYPE_CHECKING:
    import torch

_ARRAY_BYTES = 2**28
"""The array that is read to measure a CPU's memory: more than its caches hold."""


@dataclass(frozen=True)
class Device:
    """What a processor can do at most, by its data sheet.

    Attributes:
        name: as the driver gives it, or a part of that.
        bytes_per_second: the bandwidth of its memory.
        flops: operations a second by element type (`f16` stands for bf16, too); products of a type that is missing run
            in the next wider one. Empty if they are not known.
        source: where the figures are from.
    """

    name: str
    bytes_per_second: float
    flops: Mapping[DType, float] = field(default_factory=FrozenDict)
    source: str = "by its data sheet"

    @property
    def key(self) -> str:
        """The name as options spell it: `h100-pcie`."""
        return self.name.lower().replace(" ", "-")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        flops = {dtype.value: peak for dtype, peak in self.flops.items()}
        return {"name": self.key, "bytes_per_second": self.bytes_per_second, "flops": flops, "source": self.source}

    def peak(self, precision: DType | None) -> float:
        """Operations a second of products of an element type; of what is no product if None."""
        if precision in (DType.i8, DType.f8e4m3, DType.f16, DType.bf16):
            wider = self.flops.get(DType.f16, self.flops[DType.f32])
            return self.flops.get(precision, wider)
        return self.flops[DType.f32]


def _device(name: str, bandwidth: float, *tera: float) -> Device:
    """A device, its operations a second given in millions of millions: of f32, f16, i8 and f8e4m3, as far as it has."""
    types = (DType.f32, DType.f16, DType.i8, DType.f8e4m3)
    return Device(name, bandwidth, FrozenDict({dtype: peak * 1e12 for dtype, peak in zip(types, tera, strict=False)}))


# NVIDIA's data sheets and white papers: products of dense matrices, those of f16 summed in f32, f32 without TF32. The
# first one whose name is a part of that which CUDA gives a GPU counts.
_GPUS = (
    _device("H200", 4.8e12, 67, 989, 1979, 1979), _device("GH200", 4.0e12, 67, 989, 1979, 1979),
    _device("H100 NVL", 3.9e12, 60, 835, 1671, 1671), _device("H100 PCIe", 2.0e12, 51, 756, 1513, 1513),
    _device("H100", 3.35e12, 67, 989, 1979, 1979), _device("H800", 3.35e12, 67, 989, 1979, 1979),
    _device("H20", 4.0e12, 44, 148, 296, 296), _device("B200", 8.0e12, 75, 2250, 4500, 4500),
    _device("A100-SXM4-80GB", 2.0e12, 19.5, 312, 624), _device("A100 80GB", 1.9e12, 19.5, 312, 624),
    _device("A100", 1.55e12, 19.5, 312, 624), _device("A800", 2.0e12, 19.5, 312, 624),
    _device("A40", 0.70e12, 37.4, 149.7, 299.3), _device("A30", 0.93e12, 10.3, 165, 330),
    _device("A10G", 0.60e12), _device("A10", 0.60e12, 31.2, 125, 250), _device("L40S", 0.86e12, 91.6, 362, 733, 733),
    _device("L40", 0.86e12, 90.5, 181, 362, 362), _device("L4", 0.30e12, 30.3, 121, 242, 242),
    _device("T4", 0.32e12, 8.1, 65, 130), _device("V100", 0.90e12, 15.7, 125),
    _device("RTX PRO 6000", 1.8e12), _device("RTX 6000 Ada", 0.96e12, 91.1, 364, 728, 728),
    _device("RTX A6000", 0.77e12, 38.7, 155, 310), _device("RTX 5090", 1.8e12, 104.8, 209.5, 838, 419),
    _device("RTX 5080", 0.96e12), _device("RTX 4090", 1.0e12, 82.6, 165, 661, 330),
    _device("RTX 4080", 0.72e12), _device("RTX 3090", 0.94e12, 35.6, 71, 284),
)  # fmt: skip


def named_device(name: str) -> Device:
    """The device of that name, such as `h100` or `l4`, of those whose figures are all known.

    Raises:
        RequestError: if there is none, naming those that there are.
    """
    known = {device.key: device for device in _GPUS if device.flops}
    if name.lower() not in known:
        raise RequestError(
            f"there are no figures of a device {name!r}{did_you_mean(name, known)}",
            hint=f"known are {', '.join(known)}; or give --bandwidth and --flops",
        )
    return known[name.lower()]


def processor_of(name: str | None, bandwidth: float | None, flops: float | None) -> Device | None:
    """The device of that name, with figures that are given in place of its own; None if nothing is given.

    Args:
        name: the name, as `named_device` takes it; without one, both figures must be given.
        bandwidth: bytes a second of its memory.
        flops: operations a second, whatever their element type.

    Raises:
        RequestError: if there is no such device, a figure is not positive, or one is missing.
    """
    for option, figure in (("--bandwidth", bandwidth), ("--flops", flops)):
        if figure is not None and not 0 < figure < float("inf"):
            raise RequestError(f"{option} is {figure:g}; it must be a positive number a second")
    if name is None and bandwidth is None and flops is None:
        return None
    if name is None and (bandwidth is None or flops is None):
        missing, given = ("--flops", "--bandwidth") if flops is None else ("--bandwidth", "--flops")
        raise RequestError(f"{given} says half of what a device can do", hint=f"give {missing}, too, or --device")
    device = named_device(name) if name is not None else Device("this device", 0.0, source="by your figures")
    if bandwidth is not None:
        device = replace(device, bytes_per_second=bandwidth)
    if flops is not None:
        device = replace(device, flops=FrozenDict({DType.f32: flops}))
    return device


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
    return StepBytes(weights_read(graph), cache_bytes_per_token(graph))


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
    found = next((device for device in _GPUS if device.name in name), None)
    return None if found is None else Bandwidth(found.bytes_per_second, f"{name}, {found.source}")


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
