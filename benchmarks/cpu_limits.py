"""What a CPU can do at best, measured: the bandwidth of its memory, and the rate of its products."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from cpu_entries import Entry


@dataclass
class Limits:
    """What bounds all, measured between the turns; the best of what was seen counts."""

    reads: float = 0.0
    peaks: dict[str, float] = field(default_factory=dict)

    def look_at_memory(self) -> None:
        """Measure the bandwidth of reading memory."""
        self.reads = max(self.reads, bandwidth())

    def look_at_products(self) -> None:
        """Measure the rate of products."""
        for name, rate in matrix_peaks().items():
            self.peaks[name] = max(self.peaks.get(name, 0.0), rate)

    def step_ms(self, entry: Entry) -> float | None:
        """The time of reading the weights of a step of one of llmc's."""
        return entry.facts["reads"] / self.reads * 1e3 if "reads" in entry.facts and self.reads else None

    def prompt_ms(self, entry: Entry) -> float | None:
        """The time of the products of a prompt of 512 at the highest rate that products of the precision have."""
        names = {"float32": ["float32"], "16-bit": ["float32", "bfloat16"]}.get(entry.precision, list(self.peaks))
        rate = max((self.peaks[name] for name in names if name in self.peaks), default=0.0)
        return float(entry.facts["operations"]["512"]) / rate * 1e3 if rate and "operations" in entry.facts else None


def bandwidth() -> float:
    """Bytes a second at which all threads together read memory."""
    array = torch.ones(100_000_000)
    return array.nbytes / fastest(array.sum)


def matrix_peaks(size: int = 1536) -> dict[str, float]:
    """Operations a second of a large product by element type: of floats by oneDNN over packed weights, and of int8."""
    found = {}
    product = torch.ops.mkldnn._linear_pointwise.default
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        packed = torch.ops.mkldnn._reorder_linear_weight(b, size)
        call = partial(product, a, packed, None, "none", [], "")
        found[str(dtype).removeprefix("torch.")] = 2.0 * size**3 / fastest(call)
    a, b = (torch.randint(-127, 128, (size, size), dtype=torch.int8) for _ in range(2))
    found["int8"] = 2.0 * size**3 / fastest(partial(torch._int_mm, a, b.T))
    return found


def fastest(call: Callable[[], object], turns: int = 6) -> float:
    """The least seconds that a call takes."""
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
