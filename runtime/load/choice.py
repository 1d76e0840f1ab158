"""Choosing what runs an engine, from what the engine has and what this machine is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import runtime.executors.kinds
import runtime.executors.torch.target  # noqa: F401
from compiler.errors import EngineError
from compiler.plugins import load_installed
from compiler.targets import TARGETS
from runtime.engine_dir.engine_folder import EngineFolder
from runtime.executors.kind import AUTO, EXECUTORS, ExecutorKind, find_executor


@dataclass(frozen=True)
class ExecutorChoice:
    """An executor, and the target whose files it is to run.

    Attributes:
        executor: the name of a kind of executor, such as `torch`.
        target: the name of a target, such as `tensorrt-rtx`.
        note: what the user should know about the choice; empty for nothing.
    """

    executor: str
    target: str
    note: str = ""

    @property
    def kind(self) -> ExecutorKind:
        """The kind of executor."""
        return find_executor(self.executor)


def choose(folder: EngineFolder, executor: str, device: str, *, emulate: bool = False) -> ExecutorChoice:
    """What runs an engine.

    Args:
        folder: the engine.
        executor: `auto`, or the name of a kind of executor.
        device: as given by the user.
        emulate: whether `auto` emulates the files of a target that nothing here runs, slowly, rather than to run those
            that every engine has.

    Raises:
        EngineError: if the engine has no files for the executor.
        TargetError: if there is no such executor.
    """
    built = folder.manifest.targets
    if executor == AUTO:
        choice = _automatic(folder, device)
        if emulate and _runs_what_every_engine_has(choice.target) and not device.startswith("cuda"):
            emulators = (kind for kind in EXECUTORS.values() if kind.emulates)
            return next(
                (ExecutorChoice(kind.name, target) for kind in emulators if (target := kind.target_of(built))), choice
            )
        return choice
    kind = find_executor(executor)
    target = kind.target_of(built)
    if target is None:
        raise EngineError(
            f"{folder.path} has no files that {executor} runs; it was built for: {', '.join(built) or 'none'}",
            hint=f"compile it again with --target {kind.targets[0]}, or leave --executor out",
        )
    return ExecutorChoice(executor, target)


def _automatic(folder: EngineFolder, device: str) -> ExecutorChoice:
    """The first kind that suits this machine, and what is to be said of a better one that does not."""
    note = ""
    for kind, target in _candidates(folder):
        suits, why = kind.fit(target, device)
        if suits and (why := kind.lack(folder, target)):
            suits = False
        if suits:
            return ExecutorChoice(kind.name, target, note)
        note = note or (f"{folder.path} runs on {why}" if why else "")
    raise EngineError(
        f"{folder.path} has no files that anything here runs; it was built for: "
        f"{', '.join(folder.manifest.targets) or 'none'}",
        hint="install the plug-in that it was compiled with, or compile it again",
    )


def rivals(folder: EngineFolder, choice: ExecutorChoice, device: str, *, paged: bool) -> list[ExecutorChoice]:
    """What may be the fastest for an engine, which only a measurement tells; what `auto` has chosen, if that is sure.

    Args:
        folder: the engine.
        choice: what `auto` has chosen.
        device: as given by the user.
        paged: whether caches must be paged, which not every executor can do.
    """
    if not choice.kind.timed:
        return [choice]
    return [
        ExecutorChoice(kind.name, target, choice.note)
        for kind, target in _candidates(folder)
        if kind.timed and (kind.pages or not paged) and kind.fit(target, device).suits and not kind.lack(folder, target)
    ] or [choice]


def _candidates(folder: EngineFolder) -> Iterator[tuple[ExecutorKind, str]]:
    """The kinds that `auto` may take, each with the target that it would run; what every engine has comes last."""
    load_installed()
    found = [
        (kind, target)
        for kind in EXECUTORS.values()
        if kind.automatic and (target := kind.target_of(folder.manifest.targets)) is not None
    ]
    yield from sorted(found, key=lambda pair: _runs_what_every_engine_has(pair[1]))


def _runs_what_every_engine_has(target: str) -> bool:
    info = TARGETS.find(target)
    return info is not None and info.target.always
