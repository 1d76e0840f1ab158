"""Rows that are copied go on as the rows that they are copies of, on every executor and mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.backend_trt import BuildOptions, build_plans
from compiler.errors import RequestError
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of, rank_graph
from compiler.passes import run_pipeline
from compiler.passes.quant.caches.kv import quantize_caches
from compiler.store import emit_torch
from compiler.trt_network.library import load_library
from runtime.executors.interface import Executor, RowCopies
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.parallel.pipeline import LogitsType, PipelineExecutor
from runtime.executors.parallel.workers import drive
from runtime.executors.tensorrt import TensorRTExecutor
from runtime.executors.torch import TorchExecutor
from runtime.executors.torch.executor import constant_loader
from tests.frontends.models import neox_config, random_model, saved
from tests.frontends.steps import lift_folder
from tests.runtime.executors.copied_rows import largest_difference, row_copies
from tests.runtime.executors.tensorrt.fake_engine import CAPACITY, SPLIT, FakeBackend, dynamic, fake_executor
from tests.runtime.executors.tensorrt.thread_ranks import ThreadExecutor, ThreadGroup
from tests.runtime.executors.torch.thread_ranks import run_ranks
from tests.runtime.fakes import VOCAB as FAKE_VOCAB
from tests.runtime.fakes import FakeExecutor

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
        emit_torch(run_pipeline(graph, "dtype=float32").graph, emitted)
    from compiler.ir.files import read_graph

    return read_graph(emitted / "rank0.ir")


FOLDERS: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory):
    FOLDERS.append(tmp_path_factory.mktemp("ranks"))
    yield
    FOLDERS.clear()
