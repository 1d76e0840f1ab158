"""Measuring launches of products on the GPU at hand, with weights that are not in its cache."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from triton.errors import TritonError

from runtime.executors.cuda.kernels.launches import Launch, fit
from runtime.executors.cuda.kernels.precompile import Job, precompile
from runtime.executors.cuda.kernels.products import Product
from runtime.executors.cuda.kernels.rounding import Rounded, RowScale, quantize_rows
from runtime.executors.cuda.kernels.tuning import Case, Config

COLD_BYTES = 150_000_000
"""So many bytes of weights are read in turn, which no GPU's second-level cache holds."""
_REPLAYS = 7


def graphed(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of some calls, each of which is made once before."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        for call in calls:
            call()
    return graph


def microseconds(calls: Sequence[Callable[[], object]], replays: int = _REPLAYS) -> float:
    """The median time of a call, of several that a CUDA graph makes one after the other."""
    graph = graphed(calls)
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    took = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        took.append(start.elapsed_time(end) * 1000 / len(calls))
    return float(statistics.median(took))


class Bench:
    """A product with some rows of random activations and as many copies of its weight as no cache holds."""

    def __init__(self, product: Product, rows: int, partial: bool = False, rounded: bool = False) -> None:
        """Make the activations; the copies are made when the first time is measured, and live as long as this object.

        Args:
            product: what is measured, on a CUDA device.
            rows: of the activations.
            partial: whether the parts of a split sum are left to the caller.
            rounded: whether the activations are rounded to 8 bits.
        """
        self.product = product
        self.rows = rows
        self.partial = partial
        self.rounded = rounded
        columns = product.weight.columns
        xs: list[Tensor | Rounded] = [torch.randn(rows, k, device=product.device).to(product.dtype) for k in columns]
        if rounded:
            dtype = product.weight.rounded
            assert dtype is not None
            scale = RowScale(1 / (127 if dtype is torch.int8 else 448), 1e-9, 1e9)
            xs = [quantize_rows(x, dtype, scale) for x in xs if isinstance(x, Tensor)]
        self.xs = xs

    @cached_property
    def copies(self) -> list[Tensor]:
        """The weight's values, several times."""
        q = self.product.weight.q
        return [q, *(q.clone() for _ in range(math.ceil(COLD_BYTES / q.nbytes) - 1))]

    @property
    def case(self) -> Case:
        """What launches are chosen for."""
        return self.product.case(self.rows, self.partial, self.rounded)

    def call(self, launch: Launch, q: Tensor) -> Tensor:
        """The product by a launch."""
        return self.product.compute(launch, self.xs, self.partial, q)

    def microseconds(self, launch: Launch, replays: int = _REPLAYS) -> float:
        """The time of the product by a launch."""
        repeats = max(1, math.ceil(6 / len(self.copies)))
        return microseconds([lambda q=q: self.call(launch, q) for q in self.copies] * repeats, replays)

    def launches(self) -> dict[Config, Launch]:
        """The launches worth measuring; those that fit the product in the same way are one."""
        product = self.product
        found: dict[tuple[object, ...], tuple[Config, Launch]] = {}
        for config in product.table.candidates(self.case):
            launch = fit(config, product.weight, self.rows, self.rounded)
            same = (launch.config.kind, launch.config[1:5], launch.bk, launch.split)
            found.setdefault(same, (config, launch))
        return dict(found.values())

    def jobs(self, launches: Iterable[Launch]) -> list[Job]:
        """The kernels of launches."""
        return [job for launch in launches for job in self.product.jobs(launch, self.xs, self.partial)]


def tune(
    products: Sequence[Product],
    rows: Sequence[int],
    partial: bool = False,
    seconds: float = 20,
    rounded: bool = False,
) -> list[str]:
    """Measure launches of products and keep the fastest in their tables and on disk; returns what to note.

    Products with the same case are measured once. Cases for which no time is left keep the launch that they have.

    Args:
        products: on one CUDA device.
        rows: numbers of rows to measure for.
        partial: whether the parts of split sums are left to the caller.
        seconds: how long it may take.
        rounded: whether the activations are rounded to 8 bits.
    """
    if not products:
        return []
    start = time.monotonic()
    cases = {product.case(r, partial, rounded): (product, r) for r in rows for product in products}
    table = products[0].table
    jobs = []
    for product, r in cases.values():
        bench = Bench(product, r, partial, rounded)
        jobs += bench.jobs(bench.launches().values())
    capability = torch.cuda.get_device_capability(products[0].device)
    notes = [precompile(jobs, capability, seconds * 0.6)]
    for case, (product, r) in cases.items():
        if time.monotonic() - start > seconds:
            notes.append(f"no time was left to measure launches of products of {case.n} x {case.k}, {r} rows")
            continue
        best = fastest(Bench(product, r, partial, rounded), start + seconds)
        if best:
            table.keep(case, best[0])
            product.forget_launches()
    table.write()
    return notes


def fastest(bench: Bench, deadline: float) -> tuple[Config, float] | None:
    """The fastest launch and its microseconds; None if none runs."""
    best: tuple[Config, float] | None = None
    for config, launch in bench.launches().items():
        try:
            took = bench.microseconds(launch)
        except (RuntimeError, TritonError):  # it needs more shared memory or registers than the GPU has
            continue
        if best is None or took < best[1]:
            best = config, took
        if time.monotonic() > deadline:
            break
    return best
