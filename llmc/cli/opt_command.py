"""`llmc opt`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llmc.cli import options
from llmc.cli.console import note


def opt_command(
    file: Annotated[Path, typer.Argument(help="An .ir file, such as --dump-ir writes.")],
    passes: options.Passes = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT.ir", help="Where to write; standard output if not given."),
    ] = None,
    dump_ir: options.DumpIr = None,
    plugin: options.Plugins = None,
    explain: options.Explain = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Apply passes to a graph in a file. Nothing is added to the passes given; without any, the text is only checked.

    \b
    llmc opt dumps/00-lift.ir --passes merge-linears,cleanup -o better.ir
    llmc opt graph.ir --passes my-pass --plugin my_pass.py --explain
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    import llmc
    from llmc.opt import write_optimized

    graph = llmc.read_graph(file)
    optimized = llmc.optimize(graph, passes, dump_ir=dump_ir, plugins=plugin or (), explain=explain)
    print(optimized.explanation, end="", file=sys.stderr)
    write_optimized(optimized.graph, output)
    if not quiet and output is not None:
        note(f"{output}: {len(graph.ops)} ops became {len(optimized.graph.ops)} by {optimized.canonical or 'no pass'}")
