"""How long it takes to look at a graph of 20 billion parameters, 44 layers: dump, parse, diff, cost, explain.

Run it with `python -m benchmarks.inspect_20b`. No weights are needed: the checkpoint is a `config.json`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import llmc
from benchmarks.gpu_shapes import write_config
from compiler.ir.cost import graph_cost, step_sizes
from compiler.ir.diff import diff_graphs, format_diff
from compiler.ir.files import read_graph, write_graph
from compiler.ir.printer import print_graph
from llmc.inspection.cost import cost_reports

REPEATS = 5
PASSES = "quant=int4:group=128,merge-linears,fuse-attention,cleanup,cache=paged"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        checkpoint = write_config("neox-20b", place / "model")
        lifted = llmc.lift(checkpoint, dummy_weights=True)
        rewritten = llmc.optimize(lifted, PASSES).graph
        files = place / "a.ir", place / "b.ir"
        for graph, file in zip((lifted, rewritten), files, strict=True):
            write_graph(graph, file)
        report(checkpoint, lifted, rewritten, *files)


def report(checkpoint: Path, lifted: llmc.Graph, rewritten: llmc.Graph, before: Path, after: Path) -> None:
    """Time everything, and print it."""
    sizes = step_sizes(rewritten, batch=8, new=1, past=2047)
    rows: list[tuple[str, Callable[[], object]]] = [
        ("lift", lambda: llmc.lift(checkpoint, dummy_weights=True)),
        ("passes", lambda: llmc.optimize(lifted, PASSES)),
        ("passes, explained", lambda: llmc.optimize(lifted, PASSES, explain=True)),
        ("dump", lambda: print_graph(rewritten)),
        ("dump, folded", lambda: print_graph(rewritten, fold_layers=True)),
        ("parse", lambda: read_graph(after)),
        ("diff", lambda: format_diff(diff_graphs(lifted, rewritten))),
        ("diff, folded", lambda: format_diff(diff_graphs(lifted, rewritten), fold_layers=True)),
        ("cost of a step", lambda: graph_cost(replace(rewritten), sizes).by_layer),
        ("inspect --cost", lambda: cost_reports(after, batch=8, length=2048)),
    ]
    lines = [text.count("\n") for text in (print_graph(rewritten), print_graph(rewritten, fold_layers=True))]
    print(
        f"{len(lifted.ops)} ops become {len(rewritten.ops)}: {lines[0]} lines, folded {lines[1]}; median of {REPEATS}"
    )
    print(f"{'':20} {'seconds':>8}")
    for name, run in rows:
        print(f"{name:20} {seconds(run):8.3f}")


def seconds(run: Callable[[], object]) -> float:
    """The median time of several runs."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
