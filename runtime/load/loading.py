"""Loading an engine: its files checked, its model on a device."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import EngineError, TargetError
from compiler.plugins import load_plugins
from compiler.progress import Advance
from compiler.suggest import did_you_mean
from runtime.engine_dir.engine_folder import open_engine
from runtime.engine_dir.used_plugins import plugin_notes
from runtime.executors.kind import AUTO, RankToLoad, find_executor
from runtime.load.cache_options import CacheOptions
from runtime.load.choice import choose, rivals
from runtime.load.fastest import load_fastest
from runtime.load.ignored_options import device_cases, ignored_notes

if TYPE_CHECKING:
    from runtime.generation.engine import Engine

_DEVICES = ("auto", "cpu", "cuda")
_DEVICE = re.compile(r"auto|(cpu|cuda)(:\d{1,3})?")
# More than the processors help nobody, but harm nobody either, up to what a system can start.
_MOST_THREADS = 256


def load_engine(
    path: str | Path,
    *,
    device: str = "auto",
    executor: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    cache_tokens: int | None = None,
    paged_cache: bool = False,
    verify: bool = True,
    plugins: Sequence[str | Path] = (),
    advance: Advance | None = None,
    note: Callable[[str], None] | None = None,
) -> Engine:
    """The engine in the folder `path`, ready to generate.

    Args:
        path: the engine directory.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where there is a device, else the CPU.
        executor: `cpu`, `torch`, `tensorrt`, `emulator` (TensorRT's networks on a CPU; slow), `interpreter` (slow; the
            reference), one of a plug-in, or `auto`: the fastest that this machine has for the engine. Where both
            TensorRT plans and `cuda` can run it, that is measured once and remembered; see docs/gpu.md.
        threads: how many threads compute on the CPU; None leaves it to torch.
        batch: how many sequences will usually run at once, which decides between kernels; None for `max_batch`.
        cache_tokens: how many tokens all sequences in progress may have together, in paged caches; None for as many as
            `max_batch` sequences of `max_seq` tokens have, or there is memory for. It pages linear caches.
        paged_cache: whether to page the caches of an engine that was compiled with linear ones.
        verify: whether to compare the digest of every file.
        plugins: Python files that register ops of the engine; what installed packages offer is there in any case.
        advance: called with the bytes verified since the last call.
        note: called with a sentence if `auto` had to take less than the fastest, or has measured which that is, about
            each option that does nothing, and about plug-ins that are others than the engine was compiled with or
            cannot be loaded; a warning if None.

    Raises:
        EngineError: if the engine is damaged, foreign, or of another version, naming the file or key; or if its caches
            were to be paged, and the executor's are linear.
        GraphError: naming the op, if the caches cannot be paged.
        PluginError: if a file of `plugins` is not there or fails.
        RequestError: if `cache_tokens` is no integer of at least 1.
        TargetError: if this machine has no such device, or cannot run the engine.
    """
    check_request(executor, threads, device)
    caches = CacheOptions(cache_tokens, paged_cache)
    tell = note or warnings.warn
    for text in load_plugins(plugins):
        tell(text)
    folder = open_engine(path, verify=False)
    mesh = folder.manifest.mesh
    if mesh.size != 1:
        raise EngineError(
            f"{folder.path} is an engine of {mesh.size} ranks ({mesh}), not of one process",
            hint=f"llmc run {folder.path} starts the ranks; from Python, see runtime.load.ranks.run_on_ranks",
        )
    # Said before all files are read; `auto` looks for a GPU by torch, which is prepared below.
    choice = choose(folder, executor, device) if executor != AUTO else None
    if choice is not None:
        caches.check(choice.kind)
    folder = open_engine(path, verify=verify, advance=advance)
    prepare_torch(threads)
    from runtime.generation.engine import Engine

    if choice is not None:
        choices = [choice]
    else:
        choices = rivals(folder, choose(folder, executor, device), device, paged=caches.wants_pages)
    for text in plugin_notes(folder.path, folder.manifest.plugins):  # an op that is missing is an error below
        tell(text)
    caches.check(choices[0].kind)
    rank = RankToLoad(folder, choices[0].target, device=device, batch=batch, paged=caches.wants_pages, tell=tell)
    choice, loaded = load_fastest(choices, rank, tell)
    cases = device_cases(choice.kind, device, threads, on_gpu=choice.kind.uses_gpu(device))
    for text in (*filter(None, [choice.note]), *ignored_notes(*cases)):
        tell(text)
    return Engine.over(folder, loaded, cache_tokens=cache_tokens)


def check_request(executor: str, threads: int | None, device: str = "auto") -> None:
    """TargetError if there is no executor or kind of device of that name, or no such number of threads."""
    if executor != AUTO:
        find_executor(executor)
    if not _DEVICE.fullmatch(device):
        raise TargetError(
            f"there is no device {device!r}{did_you_mean(device, _DEVICES)}", hint="use auto, cpu, cuda or cuda:N"
        )
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, Integral):
        raise TargetError(f"the number of threads is {threads!r:.80}; it must be an integer")
    if threads < 1:
        raise TargetError(f"the number of threads is {threads}; it must be at least 1")
    processors = os.cpu_count() or 1
    if threads > max(_MOST_THREADS, 4 * processors):
        raise TargetError(
            f"the number of threads is {threads}; this machine has {processors} processors",
            hint=f"use --threads {processors} or fewer, or leave it out",
        )


def prepare_torch(threads: int | None) -> None:
    """Import torch with the settings that it reads once. It takes a second, so errors in an engine are said before."""
    # Read before the first large allocation: decoding streams all weights through the CPU, and with small pages every
    # few of their bytes cost an address translation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # How long torch's threads turn in a loop once an operation is done (some 30 us), before they sleep: by default they
    # keep those of the CPU kernels from their cores for milliseconds.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("KMP_BLOCKTIME", "1")
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
