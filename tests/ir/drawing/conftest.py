"""A small model's graph before and after passes, as lifted once."""

from collections.abc import Sequence
from pathlib import Path

import pytest

import llmc
from compiler.ir.drawing.page_data import Shown
from compiler.ir.graph import Graph
from tests.paths import ROOT


@pytest.fixture(scope="session")
def lifted() -> Graph:
    return llmc.lift(ROOT / "examples" / "models" / "gptneox-tiny")


@pytest.fixture(scope="session")
def dumps(lifted: Graph, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Shown]:
    """The graphs of a pipeline: as lifted, and after each of three passes."""
    folder: Path = tmp_path_factory.mktemp("dumps")
    llmc.optimize(lifted, "merge-linears,fuse-attention,cleanup", dump_ir=folder)
    return [Shown(file.stem, llmc.read_graph(file)) for file in sorted(folder.glob("*.ir"))]
