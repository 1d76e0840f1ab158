"""Building small graphs as networks, and evaluating what was built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from compiler.backend_trt import BuildOptions, build_plans
from compiler.ir.graph import Graph
from compiler.store.constant_loader import constant_loader
from compiler.trt_emulator.engine import EmulatedEngine, open_emulated
from compiler.trt_network.library import load_library
from compiler.trt_network.plans import Plans, read_plans


def build(graph: Graph, folder: Path, options: BuildOptions | None = None) -> Plans:
    """The plans of a graph without stored weights, in `folder`."""
    options = options or BuildOptions(reuse=False)
    load = constant_loader(graph)
    return read_plans(folder / build_plans(load_library("tensorrt-rtx"), graph, load, folder, "none", options=options))


def emulate(graph: Graph, folder: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs by role of the only plan of a graph, emulated."""
    (plan,) = build(graph, folder).plans
    return run(open_emulated(folder, plan.network, "none"), inputs)


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
            held[name] = held[source] if source else torch.empty(shape, dtype=engine.get_tensor_dtype(name).torch_dtype)
        assert context.set_tensor_address(name, held[name].data_ptr())
    assert context.execute_async_v3(0)
    return {name: held[name] for name in names if engine.get_tensor_mode(name).name == "OUTPUT"}
