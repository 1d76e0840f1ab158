"""Compiling kernels in parallel, in processes that use no GPU; Triton's cache on disk keeps them for this one.

`python -m runtime.executors.cuda.kernels.precompile` reads a JSON object with the GPU's compute capability and the
jobs, and says in one line of JSON what failed.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget

from runtime.executors.cuda.kernels.skinny import gemv, skinny, summed
from runtime.executors.cuda.kernels.sliced import sliced
from runtime.executors.cuda.kernels.wide import arranged, wide
from runtime.executors.cuda.kernels.wide_rounded import wide_rounded

KERNELS = {"gemv": gemv, "skinny": skinny, "sliced": sliced, "summed": summed, "wide": wide, "arranged": arranged,
           "wide_rounded": wide_rounded}  # fmt: skip


class Job(NamedTuple):
    """A kernel to compile.

    Attributes:
        kernel: its name.
        arguments: integers like those of the call, and for tensors the name of their type, such as "float16".
        constants: compile-time parameters and options.
    """

    kernel: str
    arguments: tuple[int | str, ...]
    constants: dict[str, Any]


def job(kernel: Any, arguments: Sequence[Any], constants: dict[str, Any]) -> Job:
    """The job of compiling a kernel for a call."""
    named = (str(a.dtype).removeprefix("torch.") if isinstance(a, torch.Tensor) else _typical(a) for a in arguments)
    return Job(kernel.fn.__name__, tuple(named), constants)


def _typical(size: int) -> int:
    """A number for which the same kernel is compiled: it is for 1, for multiples of 16, or for all others."""
    if size == 1 or abs(size) >= 1 << 31:
        return size
    return 16 if size % 16 == 0 else 17


class Recorded(NamedTuple):
    """A kernel to compile that was recorded at its call.

    Attributes:
        module: where it is defined.
        kernel: its name there.
        specialization: how it is called, as Triton writes it down.
    """

    module: str
    kernel: str
    specialization: str


@contextmanager
def recording() -> Iterator[list[Recorded]]:
    """A block in which kernels that this thread calls, and that are not compiled yet, are recorded instead.

    Those that are compiled run, so calls must be harmless. Yields the list of what is recorded, without repetitions,
    which is filled when the block ends. Kernels of products are for `job`: Triton reads their form "int8" as a type.
    """
    found: dict[Recorded, None] = {}
    kernels: list[Recorded] = []
    here, before = threading.get_ident(), triton.knobs.runtime.jit_cache_hook

    def hook(*args: Any, **call: Any) -> bool:
        if threading.get_ident() != here or call["is_manual_warmup"]:
            return bool(before(*args, **call)) if before is not None else False
        kernel = call["fn"].jit_function.fn
        specialization = call["compile"]["specialization_data"]
        found.setdefault(Recorded(kernel.__module__, kernel.__qualname__, specialization))
        return True

    triton.knobs.runtime.jit_cache_hook = hook
    try:
        yield kernels
    finally:
        triton.knobs.runtime.jit_cache_hook = before
        kernels += found


class Compilation:
    """Processes that compile kernels. What fails here fails again, and is reported, where the kernel is used.

    Attributes:
        kernels: how many kernels there are.
        late: how many processes had not ended when the time was over, or `stop` was called.
    """

    def __init__(self, jobs: Sequence[Job | Recorded], capability: tuple[int, int], workers: int | None = None) -> None:
        """Start the processes: `workers`, or as many as there are processors."""
        unique = list({json.dumps(j): j for j in jobs}.values())
        count = max(1, min(len(unique), workers or (os.cpu_count() or 2)))
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self.kernels, self.late = len(unique), 0
        self._start = time.monotonic()
        self._processes: list[subprocess.Popen[str]] = []
        for i in range(count):
            text = json.dumps({"capability": capability, "jobs": unique[i::count]})
            command = [sys.executable, "-m", __name__ if __name__ != "__main__" else __spec__.name]
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
            self._processes.append(process)
            assert process.stdin is not None
            with suppress(OSError):  # it has ended, which is seen below
                process.stdin.write(text)
                process.stdin.close()
            process.stdin = None

    def finish(self, seconds: float) -> str:
        """Wait until all is compiled, until so many seconds after the start at most; says in words what was done."""
        failed: list[str] = []
        for process in self._processes:
            try:
                output, errors = process.communicate(timeout=max(0.1, seconds - (time.monotonic() - self._start)))
                failed += json.loads(output) if process.returncode == 0 else [errors[-300:]]
            except subprocess.TimeoutExpired:
                self.late += 1
                process.kill()
                process.communicate()
        took = time.monotonic() - self._start
        text = f"{self.kernels} kernels compiled by {len(self._processes)} processes in {took:.1f} s"
        text += f", {self.late} not done in time" if self.late else ""
        return text + "".join(f"\n  failed: {f}" for f in failed[:10])

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            if process.poll() is None:
                self.late += 1
                process.kill()


def precompile(jobs: Sequence[Job], capability: tuple[int, int], seconds: float, workers: int | None = None) -> str:
    """Compile kernels in processes, for some seconds at most; returns in words what was done."""
    return Compilation(jobs, capability, workers).finish(seconds)


class _NoDriver:
    """What Triton asks of a driver when it compiles but does not run."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main() -> None:
    """Compile what standard input says."""
    given = json.load(sys.stdin)
    major, minor = given["capability"]
    triton.runtime.driver.set_active(_NoDriver(GPUTarget("cuda", major * 10 + minor, 32)))
    failed = []
    for kernel, second, third in given["jobs"]:
        try:
            if isinstance(third, str):
                getattr(importlib.import_module(kernel), second).preload(third)
            else:
                KERNELS[kernel].warmup(
                    *(getattr(torch, a) if isinstance(a, str) else a for a in second), grid=(1, 1), **third
                )
        except Exception as error:  # noqa: BLE001  # what fails is said, and the others are compiled
            what = f"{second}" if isinstance(third, str) else f"{kernel} {third}"
            failed.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
    print(json.dumps(failed))  # noqa: T201


if __name__ == "__main__":
    main()
