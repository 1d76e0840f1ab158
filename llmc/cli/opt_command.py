"""`llmc opt`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llmc.cli import options
from llmc.cli.console import note


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
    opened = open_subject(subject, dummy_weights=dummy_weights, source=source, limits=limits, note=notes.append)
    optimized = llmc.optimize(opened.graph, passes, dump_ir=dump_ir, explain=explain)
    print(optimized.explanation, end="", file=sys.stderr)
    file = options.file_or_none(output)
    write_optimized(optimized.graph, file)
    if not quiet:
        before, after, by = len(opened.graph.ops), len(optimized.graph.ops), optimized.canonical or "no pass"
        written = [f"{file}: {before} ops became {after} by {by}"] if file else []
        for text in [*notes, *optimized.notes, *written]:
            note(text)
