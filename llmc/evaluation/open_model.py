"""Engines to run, from whatever names a model: an engine directory, or a checkpoint that is compiled for the moment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import RequestError
from compiler.progress import Progress
from llmc.compiling.driver import compile as compile_model
from llmc.models import lift
from llmc.progress import Phases, counter
from runtime.engine_dir.engine_folder import open_engine
from runtime.engine_dir.manifest import opens_as_engine
from runtime.executors.kind import AUTO, find_executor
from runtime.generation.engine import Engine
from runtime.load.loading import check_request, load_engine

_BATCH = 8
_DTYPE = "float32"


@dataclass(frozen=True)
class Runner:
    """What runs a model; the fields are those of `llmc.load`.

    Attributes:
        executor: the executor.
        device: the device.
        threads: how many threads torch computes with on the CPU.
        check_files: whether to compare the digest of every file of an engine.
    """

    executor: str = "auto"
    device: str = "auto"
    threads: int | None = None
    check_files: bool = True

    @property
    def how(self) -> dict[str, Any]:
        """The arguments of `llmc.load` that say what runs an engine."""
        return {"executor": self.executor, "device": self.device, "threads": self.threads}


def longest_input(model: str | Path) -> tuple[int, int]:
    """The context length of a model, and how many tokens it takes at once; only headers are read.

    Raises:
        RequestError: if it is an engine of several ranks.
    """
    if opens_as_engine(model):
        manifest = open_engine(Path(model).expanduser(), verify=False).manifest
        if manifest.mesh.size > 1:
            raise RequestError(
                f"{model} is an engine of {manifest.mesh.size} ranks ({manifest.mesh}), which cannot be scored",
                hint="score the checkpoint, or an engine compiled without tp and pp",
            )
        return int(manifest.model["context_length"]), manifest.limits.max_input
    context = int(lift(model, note=lambda text: None).facts["context_length"])
    return context, context


@contextmanager
def opened(
    model: str | Path,
    max_seq: int,
    runner: Runner,
    *,
    dtype: str | None = None,
    progress: Progress,
    note: Callable[[str], None],
) -> Iterator[Engine]:
    """The model as an engine that takes prompts of `max_seq` tokens; a checkpoint's engine is gone afterwards.

    Args:
        model: an engine directory; or a checkpoint, a folder or an id of the hub.
        max_seq: how many tokens a checkpoint is compiled for.
        runner: what runs it.
        dtype: the element type that a checkpoint is computed in; float32 if None. An engine has its own.
        progress: called as work proceeds.
        note: called with sentences for the user.

    Raises:
        LlmcError: if it cannot be compiled or loaded.
    """
    check_request(runner.executor, runner.threads, runner.device)
    if opens_as_engine(model):
        yield load(model, progress=progress, verify=runner.check_files, note=note, **runner.how)
        return
    with tempfile.TemporaryDirectory(prefix="llmc-") as folder:
        compiled = compile_model(
            model,
            Path(folder) / "engine",
            target="torch" if runner.executor == AUTO else find_executor(runner.executor).targets[0],
            dtype=dtype or _DTYPE,
            max_batch=_BATCH,
            max_seq=max_seq,
            progress=progress,
        )
        for text in compiled.notes:
            note(text)
        yield load(compiled.path, progress=progress, verify=False, note=note, **runner.how)


def load(path: str | Path, *, progress: Progress | None, verify: bool = True, **how: Any) -> Engine:
    """Load an engine, and report how far that is.

    Args:
        path: the engine directory.
        progress: called as its files are read.
        verify: whether to compare the digest of every file.
        how: the other arguments of `llmc.load`; its errors are those of this function.
    """
    phases = Phases(progress)
    total = sum(entry.bytes for entry in open_engine(path, verify=False).manifest.files.values())
    hashed = counter(lambda done, total: phases("engine digest", done, total), total)
    with phases.phase("load"):
        return load_engine(path, verify=verify, advance=hashed, **how)
