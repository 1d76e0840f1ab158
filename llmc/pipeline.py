"""The pipeline of a compilation: what the user asked for, and what the compiler adds by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import llmc.own_passes  # noqa: F401
from compiler.adapters import AddPrompts
from compiler.errors import PassError
from compiler.ir.frozen import EMPTY
from compiler.ir.graph import Graph
from compiler.ir.trace import Trace
from compiler.passes import Pass, PipelineResult, parse_pipeline, run_pipeline
from compiler.passes.pipeline import PassRun, pass_name
from compiler.passes.protocol import runs_after_automatic
from compiler.progress import Progress
from llmc.progress import Phase

# Added after the user's passes, unless the user named them, because no target is fast without them.
AUTOMATIC = ("merge-linears", "fuse-attention", "cleanup")


Passes = str | Sequence[Pass | str]
"""A pipeline: its text, such as `quant=awq,tp=2`, or passes and such texts, in order."""


@dataclass(frozen=True)
class Rewritten:
    """The result of a pipeline.

    Attributes:
        graph: the last graph.
        timings: seconds by pass, in order; a pass that runs twice counts together.
        canonical: the pipeline in canonical spelling.
        explanation: what the passes did, and where rules declined; empty unless asked for.
        notes: what the passes told the user, a sentence each.
        runs: each run of a pass, in order.
    """

    graph: Graph
    timings: Mapping[str, float]
    canonical: str
    explanation: str
    notes: tuple[str, ...] = ()
    runs: tuple[PassRun, ...] = ()


def read_passes(passes: Passes) -> tuple[Pass, ...]:
    """The passes that a pipeline's text, or a list of passes and such texts, names, in order.

    Raises:
        PassError: if a text is no pipeline, or something in the list is no pass.
    """
    if isinstance(passes, str):
        return parse_pipeline(passes)
    if callable(passes) or not isinstance(passes, Iterable):
        raise PassError(f"passes is {passes!r}, not a list", hint="write a list, even of one pass: passes=[...]")
    return tuple(step for item in passes for step in _steps(item))


def _steps(item: object) -> tuple[Pass, ...]:
    if isinstance(item, str):
        return parse_pipeline(item)
    if isinstance(item, type):
        raise PassError(
            f"passes holds the class {item.__name__}, not a pass", hint=f"make one of it: {item.__name__}(...)"
        )
    if not callable(item):
        raise PassError(
            f"passes holds {item!r}, which is no pass", hint="give functions of a graph, or texts such as 'tp=2'"
        )
    step: Pass = item
    return (step,)


def compose(passes: Passes, dtype: str | None, prompts: Mapping[str, str | Path] = EMPTY) -> tuple[Pass, ...]:
    """The whole pipeline of a compilation: the element type, virtual tokens, the user's passes, the automatic ones.

    A pass that works on what the automatic ones make, and what the user lists behind it, come after them.

    Args:
        passes: the user's pipeline, as `read_passes` takes it.
        dtype: the element type to compute in; None for the checkpoint's own.
        prompts: adapter folders with virtual tokens, by the names of their tasks.

    Raises:
        PassError: if the text is no pipeline, or names a pass or an option that does not exist.
    """
    given = read_passes(passes)
    named = {pass_name(step) for step in given}
    first = parse_pipeline(f"dtype={dtype}") if dtype else ()
    if not isinstance(prompts, Mapping):
        raise PassError(f"prompts is {prompts!r}, not a mapping", hint='write prompts={"the task": "its folder"}')
    if prompts:
        first = (*first, AddPrompts(tuple(map(Path, prompts.values())), tuple(prompts)))
    automatic = parse_pipeline(",".join(name for name in AUTOMATIC if name not in named))
    at = next((place for place, step in enumerate(given) if runs_after_automatic(step)), len(given))
    return (*first, *given[:at], *automatic, *given[at:])


def rewrite(
    graph: Graph,
    passes: Passes,
    *,
    dump_ir: Path | None = None,
    explain: bool = False,
    fold_layers: bool = False,
    progress: Progress | None = None,
) -> Rewritten:
    """Run a pipeline; the arguments and errors are those of `llmc.optimize`, with `progress` called at each pass."""
    pipeline = read_passes(passes)
    trace = Trace() if explain else None
    result = run_pipeline(
        graph,
        pipeline,
        dump_dir=dump_ir,
        trace=trace,
        fold_layers=fold_layers,
        on_pass=(lambda spelling, index, count: progress(Phase("rewrite", spelling), index, count))
        if progress
        else None,
    )
    return rewritten(result, trace)


def rewritten(result: PipelineResult, trace: Trace | None) -> Rewritten:
    """What the run of a pipeline comes to, explained if what its rules did was recorded."""
    timings: dict[str, float] = {}
    for done in result.timings:
        timings[done.name] = timings.get(done.name, 0.0) + done.seconds
    lines = [
        f"{done.spelling}: {done.ops_before} ops became {done.ops_after}, {done.seconds * 1e3:.1f} ms"
        for done in result.timings
    ]
    explanation = "\n".join(lines) + "\n" + trace.text() if trace else ""
    return Rewritten(result.graph, timings, result.canonical, explanation, result.notes, result.timings)
