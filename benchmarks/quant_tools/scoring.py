"""Scoring what tools made, by llmc alone: every result is read by its frontends and run by its interpreter."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.quality import perplexity
from compiler.errors import LlmcError
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.passes import run_pipeline
from compiler.passes.quant.walk import step_inputs
from llmc.models import lift
from runtime.manifest import MANIFEST

CPU = torch.device("cpu")


def opened(folder: Path) -> Graph:
    """The graph of an engine or a checkpoint, in float32: what is measured is rounding by the tools alone."""
    graph = read_graph(folder / "rank0.ir") if (folder / MANIFEST).is_file() else lift(folder)
    return run_pipeline(graph, "dtype=float32").graph


def score(folder: Path, windows: Tensor) -> float:
    """The perplexity of the engine or checkpoint in a folder."""
    return perplexity(opened(folder), windows, CPU)


def logits(graph: Graph, windows: Tensor) -> Tensor:
    """Logits `[samples, length, vocabulary]` of some windows."""
    everywhere = torch.arange(windows.shape[1], dtype=torch.int32).expand(windows.shape)
    run = Interpreter(graph.with_ops(graph.ops, {"logits": graph.outputs["logits"]}))
    return run({**step_inputs(graph, windows), "logit_pos": everywhere})["logits"].float()


def import_error(folder: Path, windows: Tensor) -> float | None:
    """How far llmc's reading of a tool's checkpoint is from the tool's own; None if the tool left nothing to compare.

    Args:
        folder: where the tool's runner left `checkpoint`, and its own weights (`dense`) or logits.
        windows: what the logits are of.
    """
    if not (folder / "checkpoint" / "config.json").is_file():
        return None
    if (folder / "logits.safetensors").is_file():
        expected = load_file(folder / "logits.safetensors")["logits"]
    elif (folder / "dense").is_dir():
        expected = logits(opened(folder / "dense"), windows)
    else:
        return None
    found = logits(opened(folder / "checkpoint"), windows)
    return float((found - expected).norm() / expected.norm())


def result(folder: Path) -> Path:
    """What to score of a runner's results: the tool's checkpoint if llmc reads it, else its plain weights."""
    checkpoint = folder / "checkpoint"
    if not (folder / "dense").is_dir():
        return checkpoint
    try:
        lift(checkpoint)
    except LlmcError:
        return folder / "dense"
    return checkpoint
