"""What meshes cost: `python benchmarks/parallel.py [MODEL ...] [--compile 1.3b]`.

For each checkpoint folder and mesh: the collectives of a step, the bytes that a rank puts into them for each token
beside the least that can do (one sum of a layer's width where attention and MLP are parallel, else two), what stages
send, and the weights of all ranks beside those of one. Nothing is run.

`--compile` compiles an OPT shape with made-up weights for more and more ranks, each in a process of its own, and shows
time and peak memory: weights are read once, however many ranks there are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from math import prod
from pathlib import Path

from rich.console import Console
from rich.table import Table

import llmc
from build import SHAPES, config, measure
from compiler.ir.collectives import COLLECTIVES
from compiler.ir.mesh import collectives, rank_graph, sent
from compiler.ir.mesh_weights import weight_report
from compiler.ir.step import LOGITS
from compiler.ir.types import TensorType

MODELS = Path(__file__).parents[1] / "examples" / "models"
MESHES = ("tp=1", "tp=2", "tp=4", "tp=2,embed=vocab", "tp=2,embed=hidden", "pp=2", "tp=2,pp=2")
RANKS = ("tp=1", "tp=2", "tp=4", "tp=2,pp=2")


def bytes_a_token(type_: TensorType) -> int:
    """The bytes of a value of a step for each of its tokens."""
    return prod(dim for dim in type_.shape if isinstance(dim, int)) * type_.dtype.bits // 8


def row(model: Path, mesh: str) -> list[str]:
    """The figures of a checkpoint on a mesh."""
    lifted = llmc.lift(model)
    graph = llmc.optimize(lifted, f"{mesh},merge-linears,fuse-attention,cleanup").graph
    own = rank_graph(graph, 0)
    counts = collectives(graph)
    exchanged = sum(bytes_a_token(op.operands[0].type) for op in own.ops if op.kind.name in COLLECTIVES)
    layer = int(graph.facts["hidden_size"]) * graph.outputs[LOGITS].type.dtype.bits // 8  # type: ignore[call-overload]
    sums = sum(op.kind.name == "all_reduce" for op in graph.ops)
    report = weight_report(graph)
    return [
        model.name,
        mesh,
        ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none",
        f"{sums / int(graph.facts['layers']):.2g}",  # type: ignore[call-overload]
        f"{exchanged:,}",
        f"{exchanged / (layer * int(graph.facts['layers'])):.2f}",  # type: ignore[call-overload]
        f"{sum(bytes_a_token(link.value.type) for link in sent(own)):,}",
        f"{report.total / report.once:.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=sorted(MODELS.glob("*-tiny")))
    parser.add_argument("--compile", choices=SHAPES, help="an OPT shape to compile for more and more ranks")
    given = parser.parse_args()
    table = Table(
        "checkpoint",
        "mesh",
        "a step",
        "sums a layer",
        "bytes per token",
        "/ one sum a layer",
        "sent a token",
        "weights / once",
    )
    for model in given.models:
        for mesh in MESHES:
            table.add_row(*row(model, mesh))
    console = Console(width=140)
    console.print(table)
    if not given.compile:
        return
    ranks = Table("mesh", "whole compile", "writing weights", "peak memory", "/ weights of one rank's model")
    for mesh in RANKS:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config(SHAPES[given.compile])))
            figures = measure(Path(folder), "torch", mesh)
        ranks.add_row(
            mesh, f"{figures['seconds']:.1f} s", f"{figures['timings']['weights']:.1f} s",
            f"{figures['peak'] / 1e6:.0f} MB", f"{figures['peak'] / figures['weights']:.2f}",
        )  # fmt: skip
    console.print(ranks)


if __name__ == "__main__":
    main()
