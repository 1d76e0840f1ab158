"""Measuring launches of products on the GPU at hand, with weights that are not in its cache."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor
from triton.errors import TritonError

from compiler.progress import Report
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

    def launches(self, most: int | None = None) -> dict[Config, Launch]:
        """The launches worth measuring, or the `most` best guesses of them; those that are the same are one."""
        product = self.product
        found: dict[tuple[object, ...], tuple[Config, Launch]] = {}
        configs = list(product.table.candidates(self.case))
        for config in configs if most is None else best_guesses(configs, most):
            launch = fit(config, product.weight, self.rows, self.rounded)
            same = (launch.config.kind, launch.config.bm, launch.config[1:5], launch.bk, launch.split)
            found.setdefault(same, (config, launch))
        return dict(found.values())

    def jobs(self, launches: Iterable[Launch]) -> list[Job]:
        """The kernels of launches."""
        return [job for launch in launches for job in self.product.jobs(launch, self.xs, self.partial)]


def best_guesses(configs: Sequence[Config], most: int) -> list[Config]:
    """Some of the candidates: first each tile with its first split, then each with its second one, and so on."""
    splits: Counter[Config] = Counter()
    turns = []
    for config in configs:
        tile = config._replace(split=1)
        turns.append((splits[tile], config))
        splits[tile] += 1
    return [config for _, config in sorted(turns, key=lambda turn: turn[0])[:most]]


Needs = Mapping[Case, tuple[Product, int]]
"""Cases to measure, each with a product and a number of rows that are such a case."""


def tune(needs: Needs, seconds: float, most: int | None = None, report: Report = lambda done, total: None) -> list[str]:
    """Measure launches of products and keep the fastest in their table and on disk; returns what to note.

    Cases for which no time is left are not kept. Of those that no candidate runs, the launch that they have is.

    Args:
        needs: what to measure, on one CUDA device.
        seconds: how long it may take.
        most: how many candidates of a case there are at most; None for all.
        report: called with the number of cases measured, and that of all.
    """
    start = time.monotonic()
    benches = {case: Bench(product, rows, case.partial, case.bits == 8) for case, (product, rows) in needs.items()}
    jobs = [job for bench in benches.values() for job in bench.jobs(bench.launches(most).values())]
    table = next(iter(needs.values()))[0].table
    report(0, len(benches))
    notes = [precompile(jobs, torch.cuda.get_device_capability(next(iter(needs.values()))[0].device), seconds * 0.6)]
    for done, (case, bench) in enumerate(benches.items()):
        if time.monotonic() - start > seconds:
            notes.append(f"no time was left to measure {len(benches) - done} of {len(benches)} products")
            break
        best = fastest(bench, start + seconds, most)
        bench.__dict__.pop("copies", None)  # their memory is free before more is taken
        table.keep(case, best[0] if best else table.config(case))
        report(done + 1, len(benches))
    table.write()
    for product, _ in needs.values():
        product.forget_launches()
    return notes


def fastest(bench: Bench, deadline: float, most: int | None = None) -> tuple[Config, float] | None:
    """The fastest launch and its microseconds; None if none runs."""
    best: tuple[Config, float] | None = None
    for config, launch in bench.launches(most).items():
        try:
            took = bench.microseconds(launch)
        except (RuntimeError, TritonError):  # it needs more shared memory or registers than the GPU has
            continue
        if best is None or took < best[1]:
            best = config, took
        if time.monotonic() > deadline:
            break
    return best
