"""Loading an engine: its files checked, its model on a device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import EngineError, TargetError
from runtime.engine_folder import EngineFolder, open_engine
from runtime.hashing import Advance
from runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from runtime.engine import Engine
    from runtime.executor import Executor

EXECUTORS = ("auto", "torch", "interpreter")


def load_engine(
    path: str | Path,
    *,
    device: str = "auto",
    executor: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    verify: bool = True,
    advance: Advance | None = None,
) -> Engine:
    """The engine in the folder `path`, ready to generate.

    Args:
        path: the engine directory.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where there is a device, else the CPU.
        executor: `torch`, `interpreter` (slow; the reference), or `auto`: the fastest that the engine has files for.
        threads: how many threads torch computes with on the CPU; None leaves it to torch.
        batch: how many sequences will usually run at once, which decides between kernels; None for `max_batch`.
        verify: whether to compare the digest of every file.
        advance: called with the bytes verified since the last call.

    Raises:
        EngineError: if the engine is damaged, foreign, or of another version, naming the file or key.
        TargetError: if this machine has no such device, or cannot run the engine.
    """
    if executor not in EXECUTORS:
        raise TargetError(f"there is no executor {executor!r}; there are: {', '.join(EXECUTORS)}")
    if threads is not None and threads < 1:
        raise TargetError(f"the number of threads is {threads}; it must be at least 1")
    folder = open_engine(path, verify=verify, advance=advance)
    mesh = folder.manifest.mesh
    if mesh.tp * mesh.pp != 1:
        raise EngineError(
            f"{folder.path} is an engine of {mesh.tp * mesh.pp} ranks (tp={mesh.tp}, pp={mesh.pp}); "
            "this version of llmc runs engines of one rank",
            hint="compile it again without tp and pp",
        )
    tokenizer = folder.manifest.tokenizer
    # torch reads this once, before its first large allocation: decoding streams all weights through the CPU, and with
    # small pages every few of their bytes cost an address translation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Not before: torch takes a second to import, and what is wrong with an engine can be said without it.
    import torch

    from runtime.engine import Engine

    if threads is not None:
        torch.set_num_threads(threads)
    return Engine(
        folder.path,
        folder.manifest,
        _executor(folder, executor, device, batch),
        Tokenizer(folder.path / tokenizer) if tokenizer else None,
    )


def _executor(folder: EngineFolder, name: str, device: str, batch: int | None) -> Executor:
    files = folder.rank("torch")
    if name == "interpreter":
        from runtime.interpreter_executor import InterpreterExecutor

        return InterpreterExecutor.load(folder.path, files)
    from runtime.torch_executor import TorchExecutor

    rows = min(batch, folder.manifest.limits.max_batch) if batch else None
    return TorchExecutor.load(folder.path / files["graph"], device=device, rows=rows)
