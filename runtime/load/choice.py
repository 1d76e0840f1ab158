"""Choosing what runs an engine, from what the engine has and what this machine is."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from compiler.errors import EngineError
from compiler.trt_network.library import PACKAGES
from runtime.engine_dir.engine_folder import EngineFolder

if TYPE_CHECKING:
    from runtime.collectives.communicator import Communicator
    from runtime.executors.interface import RankExecutor


@dataclass(frozen=True)
class Choice:
    """An executor, and the target whose files it is to run.

    Attributes:
        executor: `torch`, `tensorrt`, `emulator` or `interpreter`.
        target: `torch`, `tensorrt-rtx` or `tensorrt`.
        note: what the user should know about the choice; empty for nothing.
    """

    executor: str
    target: str
    note: str = ""


def choose(folder: EngineFolder, executor: str, device: str, *, emulate: bool = False) -> Choice:
    """What runs an engine.

    Args:
        folder: the engine.
        executor: `auto`, or what a `Choice` can name.
        device: as given by the user.
        emulate: whether `auto` emulates plans where nothing runs them, slowly, rather than to take torch.

    Raises:
        EngineError: if the engine has no files for the executor.
    """
    tensorrt = _tensorrt_target(folder)
    if executor == "auto":
        choice = _automatic(folder, tensorrt, device)
        if emulate and tensorrt is not None and choice.executor == "torch" and not device.startswith("cuda"):
            return Choice("emulator", tensorrt)
        return choice
    if executor in ("torch", "interpreter"):
        return Choice(executor, "torch")
    if tensorrt is None:
        raise EngineError(
            f"{folder.path} has no TensorRT engine; it was built for: {', '.join(folder.manifest.targets) or 'none'}",
            hint="compile it again with --target tensorrt-rtx, or run it with --executor torch",
        )
    return Choice(executor, tensorrt)


def runs_on_gpu(choice: Choice, device: str) -> bool:
    """Whether what was chosen computes on a GPU, given a device as the user says it."""
    if choice.executor == "torch":
        return device.startswith("cuda") or (device == "auto" and _sees_gpu())
    return choice.executor == "tensorrt"


def load_executor(
    folder: EngineFolder,
    choice: Choice,
    device: str,
    batch: int | None,
    *,
    rank: int = 0,
    group: Communicator | None = None,
) -> RankExecutor:
    """Load what was chosen.

    Args:
        folder: the engine.
        choice: what to run.
        device: as given by the user.
        batch: how many sequences will usually run at once; None for the engine's largest batch.
        rank: whose files to load.
        group: the ranks of its stage; None for a rank alone.

    Raises:
        EngineError: if the engine was not built for the target, or its files cannot be read.
        TargetError: if this machine cannot run them.
    """
    files = folder.rank(choice.target, rank)
    if choice.executor == "interpreter":
        from runtime.executors.interpreter import InterpreterExecutor

        return InterpreterExecutor.load(folder.path, files, group=group)
    if choice.executor == "torch":
        from runtime.executors.torch import TorchExecutor

        rows = min(batch, folder.manifest.limits.max_batch) if batch else None
        return TorchExecutor.load(folder.path / files["graph"], device=device, rows=rows, group=group)
    from runtime.executors.tensorrt import TensorRTExecutor

    return TensorRTExecutor.load(
        folder.path,
        files,
        device=device,
        emulate=choice.executor == "emulator",
        target=choice.target,
        digests={name: entry.sha256 for name, entry in folder.manifest.files.items()},
        capabilities=folder.manifest.capabilities,
        group=group,
    )


def _automatic(folder: EngineFolder, tensorrt: str | None, device: str) -> Choice:
    """TensorRT where it runs, else torch; with a note if only the package is missing, which is much faster."""
    if tensorrt is None or device.startswith("cpu") or not _sees_gpu():
        return Choice("torch", "torch")
    if _installed(tensorrt):
        return Choice("tensorrt", tensorrt)
    package = PACKAGES[tensorrt]
    return Choice(
        "torch",
        "torch",
        f"{folder.path} runs on torch, which is slower than TensorRT: the Python package {package} is not installed",
    )


def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _tensorrt_target(folder: EngineFolder) -> str | None:
    """The TensorRT target to run: of those that were built, one whose package is installed, if there is one."""
    built = [target for target in PACKAGES if target in folder.manifest.targets]
    return next(filter(_installed, built), built[0] if built else None)


def _installed(target: str) -> bool:
    return find_spec(PACKAGES[target]) is not None
