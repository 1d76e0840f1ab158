"""How executors would run an engine, as `llmc inspect --explain` says it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compiler.errors import EngineError, LlmcError
from compiler.plugins import load_installed
from runtime.engine_dir.engine_folder import open_engine
from runtime.engine_dir.manifest import opens_as_engine
from runtime.executors.kind import AUTO, EXECUTORS, ExecutorKind, Explained
from runtime.load.choice import choose


def explain_execution(
    path: str | Path, executor: str = AUTO, *, note: Callable[[str], None] = lambda text: None
) -> dict[str, Explained]:
    """How an engine's first rank is run, by the name of the executor. Neither weights are read nor a GPU is needed.

    Args:
        path: the engine.
        executor: the executor to ask; `auto` for all that have something to say.
        note: called with a sentence about each executor that `auto` leaves out because it cannot run the engine.

    Raises:
        EngineError: if it is no engine, or has no files for the executor.
        TargetError: if there is no such executor, it has nothing to say, or cannot say it on this machine.
        GraphError: naming the op, if the executor cannot run it.
    """
    if not opens_as_engine(path):
        raise EngineError(
            f"{path} is no engine, and only of engines it is known how they run",
            hint=f"llmc compile {path} -o my.engine, then llmc inspect my.engine --explain",
        )
    folder = open_engine(path, verify=False)
    if executor != AUTO:
        choice = choose(folder, executor, AUTO)
        explained = choice.kind.explain(folder, choice.target)
        if explained is None:
            known = ", ".join(
                name for name, kind in EXECUTORS.items() if type(kind).explain is not ExecutorKind.explain
            )
            raise EngineError(
                f"the executor {executor} runs one operation after the other, or plans, so there is nothing to explain",
                hint=f"executors that run operations together: {known}; --layers shows what is in a TensorRT plan",
            )
        return {executor: explained}
    load_installed()
    found: dict[str, Explained] = {}
    failed: dict[str, LlmcError] = {}
    for name, kind in EXECUTORS.items():
        target = kind.target_of(folder.manifest.targets)
        if target is None:
            continue
        try:
            explained = kind.explain(folder, target)
        except LlmcError as error:
            failed[name] = error
            continue
        if explained is not None:
            found[name] = explained
    if failed and not found:
        raise next(iter(failed.values()))
    for name, problem in failed.items():
        note(f"the executor {name} is not explained: {problem.message}")
    return found
