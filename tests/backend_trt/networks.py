"""Building small graphs as networks, and evaluating what was built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from compiler.backend_trt import BuiltEngine, build_engine
from compiler.ir.graph import Graph
from compiler.trt.emulator.engine import EmulatedEngine, open_emulated
from compiler.trt.library import load_library
from runtime.torch_executor.executor import constant_loader

TORCH = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "INT32": torch.int32,
         "INT64": torch.int64, "BOOL": torch.bool}  # fmt: skip


def build(graph: Graph, folder: Path) -> BuiltEngine:
    """The engine of a graph, in `folder`."""
    return build_engine(load_library("tensorrt-rtx"), graph, constant_loader(graph), folder)


def emulate(graph: Graph, folder: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs by role of the engine that is built from a graph, emulated."""
    built = build(graph, folder)
    return run(open_emulated(folder, built.files["network"]), inputs)


def run(engine: EmulatedEngine, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of an engine, by name."""
    context = engine.create_execution_context()
    context.set_optimization_profile_async(engine.num_optimization_profiles - 1, 0)
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    held: dict[str, Tensor] = {}
    for name in names:
        if engine.get_tensor_mode(name).name == "INPUT":
            held[name] = inputs[name].clone().contiguous()
            assert context.set_input_shape(name, tuple(held[name].shape))
    for name in names:
        if name not in held:
            source = engine.get_aliased_input_tensor(name)
            shape = tuple(context.get_tensor_shape(name))
            held[name] = held[source] if source else torch.empty(shape, dtype=TORCH[engine.get_tensor_dtype(name).name])
        assert context.set_tensor_address(name, held[name].data_ptr())
    assert context.execute_async_v3(0)
    return {name: held[name] for name in names if engine.get_tensor_mode(name).name == "OUTPUT"}
