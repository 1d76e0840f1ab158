"""Models with a fault that a trace has to find."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

import llmc
from compiler.ir.graph import Graph
from tests.paths import MODELS

FAMILIES = ("gptneox", "gptj", "opt", "mpt")
PROMPT = [5, 900, 17, 17, 301, 44, 8, 1000, 2, 63, 512]


def checkpoint(family: str) -> Path:
    return MODELS / f"{family}-tiny"


def graph_file(graph: Graph, path: Path) -> Path:
    """The graph in a file from which its weights are found."""
    llmc.write_graph(replace(graph, root=str(Path(graph.root).resolve())), path)
    return path


def with_changed_weight(family: str, value: str, folder: Path) -> Path:
    """A copy of a checkpoint in which one element of the stored tensor behind a value is another one."""
    copy = folder / f"{family}-changed"
    shutil.copytree(checkpoint(family), copy)
    ref: Any = llmc.lift(copy).producers[value].attrs["data"]
    tensors = load_file(copy / ref.file)
    tensors[ref.name][3, 5] = 4.0
    save_file(tensors, copy / ref.file, metadata={"format": "pt"})
    return copy


def with_text_changed(family: str, old: str, new: str, path: Path, *, layer: int | None = None) -> Path:
    """The lifted graph of a checkpoint with something else in its text, at its first place or in one layer."""
    text = llmc.to_text(replace(llmc.lift(checkpoint(family)), root=str(checkpoint(family))))
    start = 0 if layer is None else text.index(f"layers.{layer}.attn from")
    at = text.index(old, start)
    path.write_text(text[:at] + new + text[at + len(old) :])
    return path
