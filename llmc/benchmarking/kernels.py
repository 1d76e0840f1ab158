"""How long each kernel of a step takes, by executors that measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmc.benchmarking.runs import Load, Runner
from runtime.executors.interface import MeasuresKernels


@dataclass(frozen=True)
class KernelTimes:
    """What the ops of one form take.

    Attributes:
        kernel: the kernel, with the columns of its operands.
        ops: how many such ops a step has.
        first: the seconds that all of them take until the first tokens.
        step: the seconds that all of them take in each further step.
    """

    kernel: str
    ops: int
    first: float
    step: float


@dataclass(frozen=True)
class LoadKernels:
    """The kernels of a load, those first that take the longest in a step."""

    load: Load
    kernels: tuple[KernelTimes, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {**asdict(self.load), "kernels": [asdict(each) for each in self.kernels]}


def measure_kernels(
    executor: MeasuresKernels, runner: Runner, load: Load, prompts: Sequence[Sequence[int]]
) -> LoadKernels:
    """Run a load twice, once for its first tokens alone."""

    def times(output: int) -> dict[str, tuple[int, float]]:
        executor.measure()
        runner.run(prompts, output)
        return {each.kernel: (each.ops, each.seconds) for each in executor.times()}

    first, whole = times(1), times(load.output)
    found = [
        KernelTimes(name, ops, first[name][1], max(0.0, seconds - first[name][1]) / (load.output - 1))
        for name, (ops, seconds) in whole.items()
    ]
    return LoadKernels(load, tuple(sorted(found, key=lambda each: -each.step)))
