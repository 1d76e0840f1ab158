"""The pipeline of a compilation: what the user asked for, and what the compiler adds by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.ir.graph import Graph
from compiler.ir.trace import Trace
from compiler.passes import Pass, parse_pipeline, run_pipeline
from compiler.passes.pipeline import pass_name
from llmc.progress import Progress

# Added after the user's passes, unless the user named them, because no target is fast without them.
AUTOMATIC = ("merge-linears", "fuse-attention", "cleanup")


@dataclass(frozen=True)
class Rewritten:
    """The result of a pipeline.

    Attributes:
        graph: the last graph.
        timings: seconds by pass, in order; a pass that runs twice counts together.
        canonical: the pipeline in canonical spelling.
        explanation: what the passes did, and where rules declined; empty unless asked for.
        notes: what the passes told the user, a sentence each.
    """

    graph: Graph
    timings: Mapping[str, float]
    canonical: str
    explanation: str
    notes: tuple[str, ...] = ()


def compose(passes: str, dtype: str | None) -> tuple[Pass, ...]:
    """The whole pipeline of a compilation: the element type first, then the user's passes, then the automatic ones.

    Args:
        passes: the user's pipeline.
        dtype: the element type to compute in; None for the checkpoint's own.

    Raises:
        PassError: if the text is no pipeline, or names a pass or an option that does not exist.
    """
    given = parse_pipeline(passes)
    named = {pass_name(step) for step in given}
    first = parse_pipeline(f"dtype={dtype}") if dtype else ()
    last = parse_pipeline(",".join(name for name in AUTOMATIC if name not in named))
    return (*first, *given, *last)


def rewrite(
    graph: Graph,
    passes: str | Sequence[Pass],
    *,
    dump_ir: Path | None = None,
    explain: bool = False,
    progress: Progress | None = None,
) -> Rewritten:
    """Run a pipeline; the arguments and errors are those of `llmc.optimize`, with `progress` called at each pass."""
    trace = Trace() if explain else None
    result = run_pipeline(
        graph,
        passes,
        dump_dir=dump_ir,
        trace=trace,
        on_pass=(lambda spelling, index, count: progress("rewrite", index, count)) if progress else None,
    )
    timings: dict[str, float] = {}
    for done in result.timings:
        timings[done.name] = timings.get(done.name, 0.0) + done.seconds
    lines = [
        f"{done.spelling}: {done.ops_before} ops became {done.ops_after}, {done.seconds * 1e3:.1f} ms"
        for done in result.timings
    ]
    explanation = "\n".join(lines) + "\n" + trace.text() if trace else ""
    return Rewritten(result.graph, timings, result.canonical, explanation, result.notes)
