"""Passes on graphs, without a checkpoint or an engine."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compiler.ir.files import write_graph
from compiler.ir.graph import Graph
from compiler.ir.printer import print_graph
from compiler.ir.verifier import verify
from compiler.plugins import load_plugins
from llmc.dumps import dump_folder
from llmc.pipeline import Passes, Rewritten, rewrite


def optimize(
    graph: Graph,
    passes: Passes,
    *,
    dump_ir: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    explain: bool = False,
    fold_layers: bool = False,
) -> Rewritten:
    """Apply a pipeline, such as `cleanup,dtype=bfloat16`, to a graph; nothing is added to it.

    Args:
        graph: the graph, which is verified first.
        passes: the pipeline: its text, or a list of passes and texts.
        dump_ir: a folder for the graph's text before the first pass and after each.
        plugins: Python files that register passes; what installed packages offer is there in any case.
        explain: whether to gather what the passes did, and why rules declined.
        fold_layers: whether dumps leave out layers that are as others, for a reader.

    Raises:
        LlmcError: if the graph or the pipeline is not valid, or a pass cannot be applied.
    """
    for text in load_plugins(plugins):
        warnings.warn(text, stacklevel=2)
    verify(graph)
    return rewrite(graph, passes, dump_ir=dump_folder(dump_ir), explain=explain, fold_layers=fold_layers)


def write_optimized(graph: Graph, output: Path | None, *, fold_layers: bool = False) -> None:
    """Write a graph to a file, or to standard output, so that its weights are found from there; or for readers only."""
    weights = Path(graph.root).resolve()
    if output is None:
        sys.stdout.write(print_graph(replace(graph, root=str(weights)), fold_layers=fold_layers))
        return
    folder = output.expanduser().resolve().parent
    write_graph(replace(graph, root=os.path.relpath(weights, folder)), output.expanduser(), fold_layers=fold_layers)
