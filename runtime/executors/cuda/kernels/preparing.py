"""What products need before their first step: launches measured, once for a GPU, and kernels compiled side by side.

Kernels are compiled in processes of their own while an engine goes on loading, and the first step waits for them;
Triton's cache on disk keeps them. Of several processes that want the same kernels (the ranks of a host) one compiles,
and the others wait for it. What fails here only costs time: kernels are compiled, one by one, where they are needed.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import Thread

import torch
import triton
from triton.errors import TritonError

from compiler.cache import cache_folder
from runtime.executors.cuda.kernels.launches import can_tile
from runtime.executors.cuda.kernels.measuring import tune
from runtime.executors.cuda.kernels.precompile import KERNELS, Compilation, Job, Recorded, recording
from runtime.executors.cuda.kernels.products import Product
from runtime.executors.cuda.kernels.tuning import BUCKETS, MOST_ROWS, MOST_TILED, Case, bucket

TUNE = "LLMC_TUNE"
"""The environment variable that, being `0`, leaves launches unmeasured."""
_SECONDS_OF_SHAPE = 8.0
_MOST_SECONDS = 60.0  # of all shapes
_CANDIDATES = 8  # of a case
_SMALL = 1 << 20  # values of a weight: of fewer, no launch takes long
_COMPILE_SECONDS = 45.0
_QUIET_SECONDS = 2.0
_MOST_WORKERS = 8  # each takes some 0.5 GB


def rows_to_prepare(product: Product, most: int) -> list[int]:
    """For how many rows a product has launches of its own, where steps have up to `most`."""
    tiled = can_tile(product.weight, product.use.rounded)
    last = bucket(max(1, min(most, MOST_TILED if tiled else MOST_ROWS)))
    return [rows for rows in BUCKETS if rows <= last]


def jobs_of(products: Iterable[Product], most: int) -> list[Job]:
    """The kernels of products, for steps of up to `most` rows."""
    found: dict[str, Job] = {}
    for product in products:
        for rows in rows_to_prepare(product, most):
            launch = product.launch(rows, *product.use)
            for job in product.jobs(launch, product.examples(rows), product.use.partial):
                found.setdefault(json.dumps(job), job)
    return list(found.values())


def unknown_cases(products: Iterable[Product], most: int) -> dict[Case, tuple[Product, int]]:
    """The cases of products, large enough to matter, for which nothing was measured on such a GPU."""
    found: dict[Case, tuple[Product, int]] = {}
    for product in products:
        if product.weight.rows * product.weight.k < _SMALL:
            continue
        for rows in rows_to_prepare(product, most):
            case = product.case(rows, *product.use)
            if case not in found and not product.table.is_known(case):
                found[case] = product, rows
    return found


class Preparation:
    """The preparation of an executor's kernels."""

    def __init__(self, most_rows: int, capability: tuple[int, int], *, alone: bool) -> None:
        """Prepare for steps; see `begin`.

        Args:
            most_rows: how many rows of one token each steps have at most.
            capability: the GPU's compute capability.
            alone: whether no other rank loads a part of the same model: launches are measured, and steps rehearsed,
                only then.
        """
        self._most, self._capability, self._alone = most_rows, capability, alone
        self._threads: list[Thread] = []
        self._compilations: list[Compilation] = []
        self._kernels = 0
        self._start = 0.0
        self._ended = False

    def begin(self, products: Sequence[Product]) -> None:
        """Measure launches of products, if they are not known, and begin to compile their kernels."""
        if self._alone and os.environ.get(TUNE) != "0":
            self._tune(products)
        self._start = time.monotonic()
        atexit.register(self._stop)
        with suppress(RuntimeError, ValueError, TypeError):  # which the first step says
            jobs = jobs_of(products, self._most)
            self._compile(jobs, json.dumps(jobs))

    def rehearse(self, steps: Callable[[Sequence[int]], None], model: str) -> None:
        """Begin to compile what decode steps call beside products.

        Args:
            steps: runs a step for each of some numbers of tokens; kernels that are not compiled do not run. Called only
                if it was not yet for such a model, and if no other rank has to take part.
            model: what such steps follow from.
        """
        if not self._alone or self._ended or _is_noted(_note(model, self._capability)):
            return
        kernels: list[Recorded] = []
        try:
            with recording() as kernels:
                steps([*(rows for rows in BUCKETS if rows < self._most), self._most])
        except (RuntimeError, ValueError, TypeError, TritonError):  # what it is about is said by the first step
            return
        self._compile([kernel for kernel in kernels if kernel.kernel not in KERNELS], model)

    def wait(self) -> None:
        """Wait until the kernels are compiled; long waits are said on standard error, and come to an end."""
        if self._ended:
            return
        quiet, end = time.monotonic() + _QUIET_SECONDS, self._start + _COMPILE_SECONDS
        if not self._done_at(quiet):
            _say(f"compiling {self._kernels} kernels for this GPU, which are kept on disk")
            self._done_at(end)
            _say(f"kernels compiled in {time.monotonic() - self._start:.0f} s")
        self._stop()

    def _done_at(self, deadline: float) -> bool:
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _stop(self) -> None:
        self._ended = True
        for compilation in self._compilations:
            compilation.stop()
        atexit.unregister(self._stop)

    def _compile(self, jobs: Sequence[Job | Recorded], key: str) -> None:
        if not jobs:
            return
        self._kernels += len(jobs)
        thread = Thread(target=self._compile_here, args=(jobs, key), name="llmc-kernels", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _compile_here(self, jobs: Sequence[Job | Recorded], key: str) -> None:
        # What fails or is late is left to the next process, or to where it is used.
        with suppress(OSError, ValueError, RuntimeError), _turn(_note(key, self._capability)) as done:
            if done:
                return
            if self._ended:
                raise TimeoutError
            workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
            compilation = Compilation(jobs, self._capability, workers)
            self._compilations.append(compilation)
            compilation.finish(_COMPILE_SECONDS)
            if compilation.late:
                raise TimeoutError

    def _tune(self, products: Sequence[Product]) -> None:
        needs = unknown_cases(products, self._most)
        if not needs:
            return
        shapes = {(case.n, case.k) for case in needs}
        seconds = min(_MOST_SECONDS, _SECONDS_OF_SHAPE * len(shapes))
        gpu = next(iter(needs.values()))[0].table.gpu
        _say(
            f"measuring which kernels are the fastest for {len(needs)} products on {gpu}: once, for up to "
            f"{seconds:.0f} s ({TUNE}=0 leaves it out)"
        )

        def report(done: int, total: int) -> None:
            if done and (done == total or done % max(1, total // 4) == 0):
                _say(f"{done} of {total} products measured")

        try:
            tune(needs, seconds, _CANDIDATES, report)
        except (OSError, ValueError, RuntimeError, TritonError) as error:
            warnings.warn(f"kernels could not be measured: {type(error).__name__}: {error}", stacklevel=3)
        torch.cuda.empty_cache()


def _say(text: str) -> None:
    sys.stderr.write(f"llmc: {text}\n")
    sys.stderr.flush()


def _note(key: str, capability: tuple[int, int]) -> Path:
    """The file that notes that kernels are compiled."""
    text = json.dumps([key, capability, triton.__version__, _sources()])
    return cache_folder() / f"kernels-{sha256(text.encode()).hexdigest()[:16]}"


def _is_noted(note: Path) -> bool:
    """Whether kernels are compiled, and Triton's cache is where it was then."""
    where = triton.knobs.cache.dir
    try:
        return note.read_text(encoding="utf-8") == where and Path(where).is_dir()
    except (OSError, ValueError):
        return False


@contextmanager
def _turn(note: Path) -> Iterator[bool]:
    """A block that one process at a time is in, of those with the same kernels; yields whether they are compiled.

    They are noted to be if the block ends well. OSError if the cache folder cannot be written to.
    """
    note.parent.mkdir(parents=True, exist_ok=True)
    with note.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = _is_noted(note)
        yield done
        if not done:
            file.truncate(0)
            file.write(triton.knobs.cache.dir)


@cache
def _sources() -> str:
    """A digest of the kernels' sources."""
    digest = sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
