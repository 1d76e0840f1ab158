"""Exporting small models in the test's process, without a command line."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import llmc.own_passes  # noqa: F401 - registers the passes
from compiler.exporters import find_format, plan_export, write_shards
from compiler.frontends import lift, open_checkpoint
from compiler.ir.graph import Graph
from compiler.passes import run_pipeline
from compiler.passes.quant.calibration.source import CalibrationSource
from tests.frontends.quantized.checkpoints import FAMILIES
from tests.frontends.steps import LIMITS


def saved_model(folder: Path, family: str, dtype: torch.dtype = torch.float16) -> Any:
    """Save the small model of a family; returns it."""
    model = FAMILIES[family]().to(dtype)
    model.save_pretrained(folder)
    return model


def calibration() -> CalibrationSource:
    """A few random windows of tokens."""
    generator = torch.Generator().manual_seed(0)
    return CalibrationSource(documents=torch.randint(31, (4, 16), generator=generator).tolist(), length=16)


def rewritten(folder: Path, passes: str) -> Graph:
    """The graph of a checkpoint after some passes."""
    graph = lift(open_checkpoint(folder), limits=LIMITS)
    with calibration().active():
        return run_pipeline(graph, passes).graph


def exported(graph: Graph, source: Path, name: str, folder: Path, most: int = 10**9) -> Graph:
    """Write a graph in a format into a folder; returns the graph that is lifted from there."""
    config = json.loads((source / "config.json").read_text())
    plan = plan_export(graph, config, find_format(name))
    folder.mkdir()
    write_shards(plan, folder, most)
    (folder / "config.json").write_text(json.dumps(plan.config))
    checkpoint = open_checkpoint(folder)
    graph = lift(checkpoint, limits=LIMITS)
    assert checkpoint.notes == []
    return graph


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found
