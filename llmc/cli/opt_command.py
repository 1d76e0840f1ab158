"""`llmc opt`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from llmc.cli import options
from llmc.cli.console import grid, note

if TYPE_CHECKING:
    from compiler.passes.pipeline import PassRun


def opt_command(
    subject: Annotated[
        str,
        typer.Argument(
            help="An .ir file, such as --dump-ir writes (-: standard input); a checkpoint, which is lifted; an engine."
        ),
    ],
    passes: options.Passes = "",
    output: options.GraphOutput = None,
    max_batch: options.MaxBatchOrNone = None,
    max_input: options.MaxInput = None,
    max_seq: options.MaxSeq = None,
    dummy_weights: options.DummyWeights = False,
    weights: options.Weights = None,
    weights_format: options.WeightsFormat = None,
    scales: options.Scales = None,
    dump_ir: options.DumpIr = None,
    plugin: options.Plugins = None,
    explain: options.Explain = False,
    fold_layers: options.FoldLayers = False,
    timing: options.Timing = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Apply passes to a graph. Nothing is added to the passes given; without any, the graph is only checked.

    No weight is read, so that passes that calibrate cannot run: llmc compile --dry-run shows about what they make.

    \b
    llmc opt dumps/00-lift.ir --passes merge-linears,cleanup -o better.ir
    llmc opt my-checkpoint --passes tp=2 --dummy-weights
    llmc lift my-checkpoint | llmc opt - --passes merge-linears
    llmc opt graph.ir --passes my-pass --plugin my_pass.py --explain
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    import llmc
    from llmc.inspection.facts import open_subject
    from llmc.opt import write_optimized

    notes: list[str] = []
    limits = {"max_batch": max_batch, "max_input": max_input, "max_seq": max_seq}
    source = {"weights": weights, "weights_format": weights_format, "scales": scales}
    began = time.perf_counter()
    opened = open_subject(subject, dummy_weights=dummy_weights, source=source, limits=limits, note=notes.append)
    read = time.perf_counter()
    optimized = llmc.optimize(opened.graph, passes, dump_ir=dump_ir, explain=explain, fold_layers=fold_layers)
    print(optimized.explanation, end="", file=sys.stderr)
    file = options.file_or_none(output)
    optimized_at = time.perf_counter()
    write_optimized(optimized.graph, file, fold_layers=fold_layers)
    if timing:
        written_at = time.perf_counter()
        phases = {"reading": read - began, "rewriting": optimized_at - read, "writing": written_at - optimized_at}
        print(_times(phases, optimized.runs), file=sys.stderr)
    if not quiet:
        before, after, by = len(opened.graph.ops), len(optimized.graph.ops), optimized.canonical or "no pass"
        written = [f"{file}: {before} ops became {after} by {by}"] if file else []
        for text in [*notes, *optimized.notes, *written]:
            note(text)


def _times(phases: Mapping[str, float], runs: Sequence[PassRun]) -> str:
    """The milliseconds of each phase and of each pass; beside them those of checking and dumping what it left."""
    rows = []
    for phase, seconds in phases.items():
        rows.append((phase, f"{seconds * 1e3:.1f}", "", ""))
        for run in runs if phase == "rewriting" else ():
            ops = f"{run.ops_before} to {run.ops_after}"
            rows.append((f"  {run.spelling}", f"{run.seconds * 1e3:.1f}", f"{run.checking * 1e3:.1f}", ops))
    return grid(("", "ms", "ms to check", "ops"), [*rows, ("in all", f"{sum(phases.values()) * 1e3:.1f}", "", "")])
