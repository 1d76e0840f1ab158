"""Trying a graph on TensorRT with llmc's own checks off: does it build, and does what was built mean the same?"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import compiler.backend_trt.emission as emission
from compiler.backend_trt.define import define_network
from compiler.backend_trt.options import BuildOptions, configure
from compiler.backend_trt.profile import add_profile
from compiler.backend_trt.readback import read_back
from compiler.backend_trt.support.check import unsupported
from compiler.errors import LlmcError
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Value
from compiler.ir.tensor_data import view_bytes
from compiler.ir.torch_types import to_torch
from compiler.trt_emulator import EmulatedEngine
from compiler.trt_emulator.memory import TORCH_TYPES
from compiler.trt_network.library import load_library
from compiler.trt_network.messages import NO_GPU, Messages
from compiler.trt_network.record import NetworkRecord

SIZES = {"B": 2, "S": 5}
"""The sizes of the dims that a trial leaves dynamic."""

# Differences of one rounding or a few; 16-bit attention and softmax round the probabilities too.
TOLERANCE = {"f32": 5e-5, "f16": 8e-3, "bf16": 6e-2}
TYPES = emission.COMPUTABLE | {DType.u8}
"""Every element type that TensorRT and torch have a name for; the emitter gives networks fewer."""
_NOWHERE = 256  # what an empty tensor is bound to: TensorRT wants an address for it too


@dataclass(frozen=True)
class Trial:
    """What became of a graph.

    Attributes:
        builds: whether TensorRT built the network.
        reason: why not.
        differs: how what was built differs from the interpreter; empty if it does not.
    """

    builds: bool
    reason: str = ""
    differs: str = ""

    def mismatch(self, graph: Graph) -> str:
        """How this differs from what the table of support declares; empty if it does not."""
        declared = unsupported(graph, TYPES)
        if declared and self.builds:
            return f"declared refused, but it builds: {declared[0].missing}"
        if not declared and not self.builds:
            return f"declared supported, but it does not build: {self.reason}"
        return self.differs


def attempt(graph: Graph, weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Trial:
    """Build a graph without asking whether it is supported, and run what was built in the emulator.

    Args:
        graph: the graph.
        weights: the stored constants, by the names of their values.
        values: the inputs whose values matter, by name; the others get random ones.
    """
    library = load_library("tensorrt-rtx")
    messages, builder = _builder()
    messages.errors.clear()
    network = builder.create_network(1 << int(library.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    try:
        with _every_type():
            made = define_network(library.trt, network, graph, lambda value: weights[value.name])
        with messages.muted():
            record = read_back(library.trt, network, library.name)
        config = builder.create_builder_config()
        configure(library.trt, config, BuildOptions())
        add_profile(builder, config, network, "all", graph)
    except LlmcError as error:
        return Trial(False, f"{error.message} {messages.text()}")
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        return Trial(False, f"{error!r} {messages.text()}")
    if not builder.build_serialized_network(network, config):
        return Trial(False, messages.text())
    record = replace(record, weights=made.weights, constants=made.constants)
    return Trial(True, differs=_difference(graph, record, weights, values))


@cache
def _builder() -> tuple[Messages, Any]:
    trt = load_library("tensorrt-rtx").trt
    messages = Messages(trt, ignored=NO_GPU)
    return messages, trt.Builder(messages.logger)


@contextmanager
def _every_type() -> Iterator[None]:
    """Let the emitter name every element type that TensorRT has, also those that it computes nothing in."""
    with patch.object(emission, "COMPUTABLE", TYPES):
        yield


def _difference(
    graph: Graph, record: NetworkRecord, weights: Mapping[str, Tensor], values: Mapping[str, Tensor]
) -> str:
    try:
        given = {value.name: values[value.name] if value.name in values else noise(value) for value in graph.inputs}
        expected = _interpreted(graph, weights, given)
    except LlmcError as error:
        return f"the interpreter: {error.message}"
    try:
        got = _emulated(record, weights, given)
    except LlmcError as error:
        return f"the emulator: {error.message}"
    inputs = {value.name for value in graph.inputs}
    for role, wanted in expected.items():
        found = got[graph.outputs[role].name if role in inputs else role]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return f"{role} is {found.dtype}{list(found.shape)}, not {wanted.dtype}{list(wanted.shape)}"
        tolerance = TOLERANCE.get(graph.outputs[role].type.dtype.value, 0.0)
        if not torch.allclose(found.double(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True):
            return f"{role} differs by {(found.double() - wanted.double()).abs().max().item():.3g}"
    return ""


def _interpreted(graph: Graph, weights: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the interpreter says; its constants come from a file."""
    with tempfile.TemporaryDirectory() as folder:
        for name, tensor in weights.items():
            Path(folder, name).write_bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return Interpreter(replace(graph, root=folder))(given)


def _emulated(record: NetworkRecord, weights: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    outputs = {layer.name: layer.outputs[0] for layer in record.layers if layer.kind == "CONSTANT"}

    def constant(name: str) -> Tensor:
        source, tensor = record.constants[name], record.tensors[outputs[name]]
        if not isinstance(source, bytes):
            return weights[source.tensor].reshape(tensor.shape)
        return view_bytes(torch.tensor(bytearray(source), dtype=torch.uint8), tensor.type)

    refused: list[str] = []
    engine = EmulatedEngine(record, constant, refused.append)
    context = engine.create_execution_context()
    held: dict[str, Tensor] = {}
    for name in record.inputs:
        weight = record.weights.get(name)
        whole = given[name] if weight is None else weights[weight.tensor].reshape(record.tensors[name].shape)
        held[name] = whole.clone().contiguous()
        context.set_input_shape(name, tuple(held[name].shape))
    for name in record.outputs:
        source = engine.get_aliased_input_tensor(name)
        shape = context.get_tensor_shape(name)
        held[name] = held[source] if source else torch.empty(shape, dtype=TORCH_TYPES[record.tensors[name].dtype])
    for name, tensor in held.items():
        context.set_tensor_address(name, tensor.data_ptr() or _NOWHERE)
    if not context.execute_async_v3(0):
        raise LlmcError("; ".join(refused))
    return {name: held[name] for name in record.outputs}


def noise(value: Value, seed: int = 0) -> Tensor:
    """Reproducible values of a type; small ones for integers."""
    shape, dtype = value.type.sizes(SIZES), value.type.dtype
    generator = torch.Generator().manual_seed(seed + math.prod(value.name.encode()) % 9973)
    if dtype.is_float:
        return torch.randn(shape, generator=generator).to(to_torch(dtype))
    return torch.randint(0, 2 if dtype is DType.bool else 5, shape, generator=generator).to(to_torch(dtype))
