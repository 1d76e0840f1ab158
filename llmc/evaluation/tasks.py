"""Tasks of lm-evaluation-harness, run by an engine."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from compiler.errors import LlmcError, RequestError
from compiler.suggest import did_you_mean
from llmc.evaluation.extras import extra_module
from runtime.engine_dir.manifest import no_tokenizer, read_manifest
from runtime.generation.engine import Engine

_WHY = "to run tasks"
_KEYS = ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better")


@dataclass(frozen=True)
class HarnessOptions:
    """What is asked of the harness besides tasks; see the options of the same names of `lm_eval`.

    Attributes:
        num_fewshot: how many examples stand before a question; None for what the task says.
        limit: how many questions of each task, or below 1 which share of them; None for all.
        gen_kwargs: parameters of generations, such as `temperature=0.7,do_sample=True`, over those of the tasks.
        apply_chat_template: whether prompts are written by the chat template.
        log_samples: whether results hold every question and answer.
        batch: how many requests run at once; None for as many as the engine takes.
    """

    num_fewshot: int | None = None
    limit: float | None = None
    gen_kwargs: str | None = None
    apply_chat_template: bool = False
    log_samples: bool = False
    batch: int | None = None


class Tasks:
    """Tasks that are loaded, with their data.

    Args:
        engine: the engine directory, of which only the manifest is read.
        names: names of tasks, groups of tasks, or patterns such as `mmlu_*`.
        include_path: a folder of more tasks.

    Raises:
        RequestError: if the engine has no tokenizer, there is no such task, its data cannot be had, or `lm_eval` is not
            installed.
        EngineError: if there is no such engine.
    """

    def __init__(self, engine: str | Path, names: Sequence[str], *, include_path: str | Path | None = None) -> None:
        manifest = read_manifest(Path(engine).expanduser(), verify=False)
        if manifest.tokenizer is None:
            reason, mend = no_tokenizer(manifest)
            raise RequestError(f"{engine} has no tokenizer{reason}, so it cannot read tasks", hint=mend)
        extra_module("lm_eval", "lm_eval", _WHY)
        self._manager = _manager(names, include_path)
        self._names = list(names)
        try:
            loaded = self._manager.load(self._names)
        except LlmcError:
            raise
        except Exception as error:  # noqa: BLE001 - tasks are programs, and their data may be anywhere
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise RequestError(
                f"cannot load the tasks {', '.join(names)}: {reason}", hint="the tasks' data may have to be downloaded"
            ) from None
        self._manager.load = lambda tasks: loaded  # the harness asks for them once more

    def run(self, engine: Engine, options: HarnessOptions) -> dict[str, Any]:
        """Evaluate an engine, on one rank or several; returns what the harness does.

        Raises:
            RequestError: if the engine cannot serve a request of a task, or an option cannot be.
        """
        import lm_eval

        from llmc.evaluation.harness import LlmcLM

        model = LlmcLM(engine, batch_size=options.batch or "auto")
        with contextlib.redirect_stdout(sys.stderr):
            found: dict[str, Any] | None = lm_eval.simple_evaluate(
                model=model,
                tasks=self._names,
                task_manager=self._manager,
                num_fewshot=options.num_fewshot,
                limit=options.limit,
                gen_kwargs=options.gen_kwargs,
                apply_chat_template=options.apply_chat_template,
                log_samples=options.log_samples,
            )
        assert found is not None  # it is None on other ranks than the first
        return found


def _manager(names: Sequence[str], include_path: str | Path | None) -> Any:
    """What knows the tasks. The harness's own, some ten thousand, are looked through only if they are needed."""
    from lm_eval.tasks import TaskManager

    if include_path is not None:
        folder = Path(include_path).expanduser()
        if not folder.is_dir():
            raise RequestError(f"there is no folder {include_path} of tasks", hint="--include-path takes a folder")
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        if not _unknown(manager, names):
            return manager
    manager = TaskManager(include_path=None if include_path is None else str(folder))
    if unknown := _unknown(manager, names):
        raise RequestError(
            f"there is no task {unknown[0]!r}{did_you_mean(unknown[0], manager.all_tasks)}",
            hint="lm_eval ls tasks lists them; --include-path adds a folder of your own",
        )
    return manager


def _unknown(manager: Any, names: Sequence[str]) -> list[str]:
    return [name for name in names if not manager.match_tasks([name])]


def plain_results(results: Mapping[str, Any], *, samples: bool = False) -> dict[str, Any]:
    """The results in the types of JSON: figures, versions and counts, and `samples` if they are wanted."""
    from lm_eval.utils import handle_non_serializable

    keys = (*_KEYS, *(["samples"] if samples else []))
    kept = {key: results[key] for key in keys if key in results}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=handle_non_serializable))
    return plain


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing that the harness says on standard error is shown: neither bars nor warnings."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):  # noqa: PTH123 - no path of the user's
        yield


class Metric(NamedTuple):
    """One figure of a task or of a group of tasks."""

    task: str
    name: str
    filter: str
    value: float | str
    stderr: float | None


def metrics(results: Mapping[str, Any]) -> Iterator[Metric]:
    """The figures of results, in the order of the tasks; those of groups come last."""
    for kind in ("results", "groups"):
        for task, found in results.get(kind, {}).items():
            if kind == "results" and task in results.get("groups", {}):
                continue
            for key, value in found.items():
                name, comma, way = key.partition(",")
                if comma and not name.endswith("_stderr"):
                    error = found.get(f"{name}_stderr,{way}")
                    yield Metric(task, name, way, value, error if isinstance(error, float) else None)
