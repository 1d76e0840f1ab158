"""Scoring what tools made, by llmc alone: every result is read by its frontends and run by its interpreter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.quality import Reference, compare, refer
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.rewrite import eliminate_dead
from compiler.passes import run_pipeline
from llmc.models import lift
from runtime.engine_dir.manifest import opens_as_engine

CPU = torch.device("cpu")


def opened(folder: Path) -> Graph:
    """The graph of an engine or a checkpoint, in float32: what is measured is rounding by the tools alone."""
    graph = read_graph(folder / "rank0.ir") if opens_as_engine(folder) else lift(folder)
    return run_pipeline(graph, "dtype=float32").graph


def reference(model: Path, windows: Tensor) -> Reference:
    """What a checkpoint predicts of windows `[samples, length]`."""
    return refer(opened(model), windows, CPU)


def score(folder: Path, expected: Reference) -> list[str]:
    """The perplexity of the engine or checkpoint in a folder, its change and the KL divergence, as text."""
    return compare(opened(folder), expected, CPU)


def import_error(folder: Path) -> float | None:
    """The share of weights that llmc reads from a tool's checkpoint otherwise than the tool does, of the worst linear.

    What counts is more than rounding to float16, in which some tools expand weights. Rows are sorted first, since GPTQ
    checkpoints in the order of activations are read with their columns reordered.

    Args:
        folder: where the tool's runner left `checkpoint` and its own weights, `dense`; None if it did not leave both.
    """
    if not (folder / "checkpoint" / "config.json").is_file() or not (folder / "dense").is_dir():
        return None
    found, expected = _weights(opened(folder / "checkpoint")), _weights(opened(folder / "dense"))
    return max(_share(found[name], weight) for name, weight in expected.items())


def result(folder: Path) -> Path:
    """What to score of a runner's results: an engine or checkpoint that llmc reads, else the tool's plain weights."""
    checkpoint = folder / "checkpoint"
    return checkpoint if checkpoint.is_dir() else folder / "dense"


def _weights(graph: Graph) -> dict[str, Tensor]:
    """The weights of linears by the linear's name, `[N, K]` in float32."""
    names = {op.name: op.operands[1].name for op in graph.find("linear")}
    wanted = {value.name: value for op in graph.find("linear") for value in op.operands[1:2]}
    constants = eliminate_dead(graph.with_ops(graph.ops, wanted))
    found = Interpreter(replace(constants, inputs=()))({})
    return {name: found[weight].float() for name, weight in names.items()}


def _share(found: Tensor, expected: Tensor) -> float:
    found, expected = found.sort(1).values, expected.sort(1).values
    rounding = 2.0**-10 * expected.abs().amax(1, keepdim=True)
    return float(((found - expected).abs() > rounding).float().mean())
