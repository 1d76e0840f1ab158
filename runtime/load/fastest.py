"""Which of several executors is the fastest here: measured once for each form of engine, and remembered."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from compiler.atomic_file import replacing
from compiler.cache import cache_folder
from compiler.errors import LlmcError
from runtime.executors.kind import AUTO, RankToLoad
from runtime.load.choice import ExecutorChoice

if TYPE_CHECKING:
    from runtime.executors.interface import RankExecutor
    from runtime.generation.engine import Engine

_FORMAT = 1
_PROMPT, _FEW, _MANY = 16, 8, 40
_TURNS = 2
_LEAST = 4
"""The tokens that a sequence must have room for, or there is nothing to measure."""
_PACKAGES = ("llmc", "torch", "triton", "tensorrt", "tensorrt_rtx")
"""What a measurement depends on."""


def load_fastest(
    choices: Sequence[ExecutorChoice], rank: RankToLoad, tell: Callable[[str], None]
) -> tuple[ExecutorChoice, RankExecutor]:
    """Load an engine of one rank with the executor that is the fastest for it on this machine.

    Each is loaded and runs some decode steps of as many sequences as the engine usually has, once; what came out is
    remembered in the cache folder. One that fails leaves it to the others.

    Args:
        choices: the executors that may be the fastest, one or more; one is loaded without a measurement.
        rank: the engine, and how it is to be loaded.
        tell: called with a sentence about what was measured, or what failed.

    Returns:
        What runs the engine, and the loaded executor.

    Raises:
        LlmcError: if none of them can be loaded; the error of the last.
    """
    if len(choices) == 1 or rank.folder.manifest.limits.max_seq < _LEAST:
        return choices[0], _load(choices[0], rank)
    place = _place(choices, rank)
    known = _remembered(place, choices)
    if known is not None:
        return known, _load(known, rank)
    times, failed = _measured(choices, rank)
    for name, error in failed.items():
        tell(f"{rank.folder.path} does not run on {name}: {error}")
    best = min(choices, key=lambda each: times.get(each.executor, float("inf")))
    if len(times) > 1:
        told = ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(times.items(), key=lambda pair: pair[1]))
        tell(f"{rank.folder.path} runs on {best.executor}, the fastest for it here (measured, a step: {told})")
    if not failed:
        _remember(place, best, times)
    return best, _load(best, rank)


def milliseconds_a_step(engine: Engine, batch: int) -> float:
    """How long a decode step of so many sequences takes, as who calls `generate` sees it; at least 0.

    Raises:
        LlmcError: if the engine fails.
    """
    limits = engine.manifest.limits
    prompt = min(_PROMPT, limits.max_input, limits.max_seq - 2)
    many = min(_MANY, limits.max_seq - prompt)
    few = min(_FEW, many - 1)
    ids = [[1 + at % (engine.manifest.vocab_size - 1) for at in range(row, row + prompt)] for row in range(batch)]

    def seconds(new: int) -> float:
        start = perf_counter()
        engine.generate(ids, max_new_tokens=new, ignore_eos=True, add_special_tokens=False, note=lambda text: None)
        return perf_counter() - start

    for _ in range(_TURNS):
        seconds(many)  # kernels are made, steps are captured
    long, short = (min(seconds(new) for _ in range(_TURNS)) for new in (many, few))
    return max(0.0, long - short) / (many - few) * 1e3


def _measured(choices: Sequence[ExecutorChoice], rank: RankToLoad) -> tuple[dict[str, float], dict[str, LlmcError]]:
    """Milliseconds a step, and errors, by the executor's name; what is left alone is not run.

    Only one executor is in memory at a time.
    """
    from runtime.generation.engine import Engine

    limits = rank.folder.manifest.limits
    batch = min(rank.batch or limits.max_batch, limits.max_batch)
    times: dict[str, float] = {}
    failed: dict[str, LlmcError] = {}
    for choice in choices:
        if len(failed) == len(choices) - 1:
            times[choice.executor] = 0.0
            break
        try:
            times[choice.executor] = milliseconds_a_step(Engine.over(rank.folder, _load(choice, rank)), batch)
        except LlmcError as error:
            failed[choice.executor] = error.with_traceback(None)
        _free()
    return times, failed


def _load(choice: ExecutorChoice, rank: RankToLoad) -> RankExecutor:
    return choice.kind.load(replace(rank, target=choice.target))


def _free() -> None:
    """Give back the memory of an executor that is no more."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _place(choices: Sequence[ExecutorChoice], rank: RankToLoad) -> Path:
    """The file for what is measured of such engines on such a GPU by what is installed here."""
    folder = rank.folder
    manifest = folder.manifest
    files = {
        f"{choice.target} {role}": manifest.files[name].sha256
        for choice in choices
        for role, name in folder.rank(choice.target).items()
        if role in ("graph", "plans") and name in manifest.files
    }
    facts = [_FORMAT, files, asdict(manifest.limits), rank.batch, rank.paged, gpu_name(rank.device)]
    key = hashlib.sha256(json.dumps([*facts, dict(_versions())], sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"executor-{key[:32]}.json"


def gpu_name(device: str) -> str:
    """The name of the GPU that a device stands for: `auto`, `cuda` or `cuda:N`."""
    import torch

    return torch.cuda.get_device_name(None if device == AUTO else device)


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _remembered(place: Path, choices: Sequence[ExecutorChoice]) -> ExecutorChoice | None:
    """What was the fastest; None if that is not known, or the file is damaged."""
    try:
        name = json.loads(place.read_text(encoding="utf-8"))["executor"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((choice for choice in choices if choice.executor == name), None)


def _remember(place: Path, best: ExecutorChoice, times: Mapping[str, float]) -> None:
    """Failing is no error: it is measured again the next time."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as temporary:
            temporary.write_text(json.dumps({"executor": best.executor, "milliseconds": dict(times)}, indent=1))
    except OSError:
        return
