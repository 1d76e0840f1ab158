"""Caches in 8 bits: plans give what is new, the executor places it, and all of it means what the graph says."""

from pathlib import Path

import pytest
import torch

from compiler.backend_trt import BuildOptions, build_plans
from compiler.ir.dtypes import DType
from compiler.ir.files import read_graph
from compiler.ir.step import Step
from compiler.passes import run_pipeline
from compiler.passes.quant.caches.kv import quantize_caches, scale_of
from compiler.store import write_ranks
from compiler.store.constant_loader import constant_loader
from compiler.trt_network.library import load_library
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.tensorrt.executor import TensorRTExecutor
from tests.frontends.steps import lift_folder

MODELS = Path("examples/models")


@pytest.mark.parametrize("dtype", [DType.i8, DType.f8e4m3])
@pytest.mark.parametrize("scales", [1, 4])
def test_sequences_grow_alike(dtype: DType, scales: int, tmp_path: Path) -> None:
    graph = lift_folder(MODELS / "opt-tiny")
    largest = {name: scale_of(torch.linspace(2, 4, scales), dtype) for name in graph.states()}
    graph = run_pipeline(quantize_caches(graph, dtype, largest), "merge-linears,fuse-attention,cleanup").graph
    write_ranks(graph, tmp_path)
    stored = read_graph(tmp_path / "rank0.ir")
    options = BuildOptions(reuse=False, prompt_sizes=(4,))
    load = constant_loader(stored)
    file = build_plans(load_library("tensorrt-rtx"), stored, load, tmp_path, "rank0.safetensors", options=options)
    session = TensorRTExecutor.load(tmp_path, {"plans": file}, emulate=True).open(2, 24)
    other = InterpreterExecutor(stored).open(2, 24)
    past = torch.zeros(2, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    for counts in ((7, 3), (1, 1), (1, 4), (1, 1)):
        ids = torch.randint(256, (2, max(counts)), generator=generator, dtype=torch.int32)
        new = torch.tensor(counts, dtype=torch.int32)
        found, expected = (s.step(Step(ids, past, new, (new - 1)[:, None])).float() for s in (session, other))
        assert (found - expected).norm() / expected.norm() < 0.05
        past = past + new
