"""Which launch of a product is the fastest: tile sizes, warps, stages and parts of a sum, by shape and GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch

BUCKETS = (1, 16, 32, 64)
"""Rows of a product for which launches are chosen: up to each."""
MOST_ROWS = BUCKETS[-1]
"""Rows up to which a product is computed by the own kernels."""


class Config(NamedTuple):
    """How a product is launched.

    Attributes:
        kind: "dot" by matrix instructions, or "gemv" (one row only).
        bn: columns of the result that a program computes.
        bk: columns of the weight that it reads in a step.
        warps: warps of a program.
        stages: steps whose reads are under way at once.
        split: programs among which the columns of the weight are divided.
    """

    kind: Literal["dot", "gemv"]
    bn: int
    bk: int
    warps: int
    stages: int
    split: int


class Case(NamedTuple):
    """What a launch is chosen for.

    Attributes:
        form: how the weight is stored; see `weights.JoinedWeight`.
        dtype: the type of the activations, such as "float16".
        group: columns that share a scale, 0 if all do.
        n: columns of the result.
        k: columns of the weight.
        rows: one of `BUCKETS`.
    """

    form: str
    dtype: str
    group: int
    n: int
    k: int
    rows: int

    @property
    def key(self) -> str:
        """The case as text, by which choices are kept."""
        return f"{self.form} {self.dtype} g{self.group} {self.n}x{self.k} {self.rows}"


def bucket(rows: int) -> int:
    """The bucket of a number of rows, which is at most `MOST_ROWS`."""
    return next(b for b in BUCKETS if rows <= b)


class Tuning:
    """The launches chosen for a GPU."""

    def __init__(self, processors: int, shared_memory: int, known: Mapping[str, Config] | None = None) -> None:
        """Launches by rules, but for cases that are known.

        Args:
            processors: the GPU's multiprocessors.
            shared_memory: bytes that a program may use.
            known: launches by `Case.key`.
        """
        self.processors = processors
        self.shared_memory = shared_memory
        self.known = dict(known or {})

    @classmethod
    def of(cls, device: torch.device) -> Tuning:
        """The launches for a device; a CPU, on which Triton interprets, is taken for a GPU with few processors."""
        if device.type != "cuda":
            return cls(4, 1 << 17)
        properties = torch.cuda.get_device_properties(device)
        memory = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
        return cls(properties.multi_processor_count, memory)

    def config(self, case: Case) -> Config:
        """The launch for a case: the one that was measured, or one by rules."""
        return self.known.get(case.key) or self.by_rule(case)

    def by_rule(self, case: Case) -> Config:
        """A launch that is good for any shape: enough programs to fill the GPU, with enough reads under way in each."""
        width = 4 if case.dtype == "float32" else 2
        bits = {"dense": 8 * width, "int4": 4}.get(case.form, 8)
        if case.dtype == "float32":
            kind, bn, bk, warps, stages = ("gemv", 8, 256, 4, 3) if case.rows == 1 else ("dot", 32, 64, 4, 3)
        else:
            kind, bn, bk, warps, stages = "dot", 64, 128, 4, 5
        while stages > 1 and stages * (bn * bk * bits // 8 + bk * max(16, case.rows) * width) > self.shared_memory:
            stages -= 1
        programs = -(-case.n // bn)
        split = 2 ** max(0, math.ceil(math.log2(2 * self.processors / programs))) if programs else 1
        return Config(kind, bn, bk, warps, stages, min(split, 8, max(1, case.k // 512)))  # type: ignore[arg-type]
