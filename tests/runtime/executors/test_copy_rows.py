"""Rows that are copied go on as the rows that they are copies of, on every executor and mesh."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.passes import run_pipeline
from compiler.store import write_ranks
from tests.frontends.models import neox_config, random_model, saved
from tests.frontends.steps import lift_folder

VOCAB, ROWS, LONGEST = 31, 4, 24
# Rows of one batch may be summed in other orders, and an 8-bit value may get another code where that tips the scales.
EXACT, ROUNDED = 1e-4, 0.05
QUANTIZED = {"": None, "int8": DType.i8, "fp8": DType.f8e4m3}


@cache
def model() -> Graph:
    """A small model of random weights, of two layers, in a folder that goes away with the tests' own."""
    import transformers

    with saved(random_model(transformers.GPTNeoXForCausalLM, neox_config(num_hidden_layers=2), seed=0)) as folder:
        graph = lift_folder(folder)
        emitted = Path(FOLDERS[0]) / "whole"
        emitted.mkdir()
        write_ranks(run_pipeline(graph, "dtype=float32").graph, emitted)
    from compiler.ir.files import read_graph

    return read_graph(emitted / "rank0.ir")


FOLDERS: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory):
    FOLDERS.append(tmp_path_factory.mktemp("ranks"))
    yield
    FOLDERS.clear()
