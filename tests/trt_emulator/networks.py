"""Records made by hand, and engines that run them on tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from compiler.trt_emulator import EmulatedContext, EmulatedEngine
from compiler.trt_emulator.memory import TORCH_TYPES
from compiler.trt_network.record import LayerRecord, NetworkRecord, ProfileRecord, TensorRecord, Weight

NAMES = {dtype: name for name, dtype in TORCH_TYPES.items() if name != "INT4"}


_bound: WeakKeyDictionary[EmulatedContext, dict[str, Tensor]] = WeakKeyDictionary()  # keeps their memory
_NOWHERE = 256  # what an empty tensor is bound to: TensorRT wants an address for it too


class Network:
    """A record in the making."""

    def __init__(self) -> None:
        self.tensors: dict[str, TensorRecord] = {}
        self.layers: list[LayerRecord] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.constants: dict[str, Tensor] = {}
        self.profiles: list[ProfileRecord] = []
        self.weights: dict[str, Weight] = {}

    def input(self, name: str, dtype: str, shape: Sequence[int]) -> str:
        self.tensors[name] = TensorRecord(name, dtype, tuple(shape))
        self.inputs.append(name)
        return name

    def weight(self, name: str, dtype: str, shape: Sequence[int]) -> str:
        self.weights[name] = Weight(name)
        return self.input(name, dtype, shape)

    def constant(self, name: str, value: Tensor, dtype: str | None = None) -> str:
        self.constants[f"constant {name}"] = value
        return self.layer(
            "CONSTANT",
            [],
            name,
            dtype or NAMES[value.dtype],
            value.shape,
            layer_name=f"constant {name}",
            shape=list(value.shape),
        )

    def layer(
        self,
        kind: str,
        inputs: Sequence[str | None],
        output: str,
        dtype: str,
        dims: Sequence[int],
        *,
        metadata: str = "",
        layer_name: str | None = None,
        **params: Any,
    ) -> str:
        self.tensors[output] = TensorRecord(output, dtype, tuple(dims))
        self.layers.append(
            LayerRecord(layer_name or f"layer {output}", kind, tuple(inputs), (output,), params, metadata)
        )
        return output

    def profile(self, **shapes: tuple[Sequence[int], Sequence[int], Sequence[int]]) -> None:
        ranges = {name: tuple(tuple(shape) for shape in three) for name, three in shapes.items()}
        self.profiles.append(ProfileRecord(f"profile {len(self.profiles)}", ranges))  # type: ignore[arg-type]

    def record(self, *outputs: str) -> NetworkRecord:
        return NetworkRecord(
            "network",
            "hand-made",
            self.tensors,
            tuple(self.layers),
            tuple(self.inputs),
            outputs,
            tuple(self.profiles),
            self.weights,
        )

    def engine(self, *outputs: str, log: list[str] | None = None) -> EmulatedEngine:
        messages = [] if log is None else log
        return EmulatedEngine(self.record(*outputs), self.constants.__getitem__, messages.append)


def bind(context: EmulatedContext, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set shapes and addresses of the inputs, make the outputs that have no memory yet, and give all the tensors."""
    engine, bound = context.engine, dict(tensors)
    for name in engine.record.inputs:
        assert context.set_input_shape(name, tuple(tensors[name].shape))
    for name in engine.record.outputs:
        source = engine.get_aliased_input_tensor(name)
        if source is not None:
            bound[name] = tensors[source]
        else:
            dtype = TORCH_TYPES[engine.record.tensors[name].dtype]
            bound[name] = torch.empty(context.get_tensor_shape(name), dtype=dtype)
    for name, tensor in bound.items():
        assert tensor.is_contiguous()
        assert context.set_tensor_address(name, tensor.data_ptr() or _NOWHERE)
    _bound[context] = bound
    return bound


def evaluate(
    kind: str,
    inputs: Sequence[Tensor | None],
    dtype: str,
    dims: Sequence[int],
    *,
    constants: Sequence[int] = (),
    dynamic: bool = True,
    metadata: str = "",
    communicator: Any = None,
    **params: Any,
) -> Tensor:
    """The output of one layer on inputs at run time, but for those positions that are constants.

    Every dimension of the inputs and of the output is recorded as -1 if dynamic.
    """
    network, given = Network(), {}
    names: list[str | None] = []
    for index, tensor in enumerate(inputs):
        name = None if tensor is None else f"input{index}"
        if tensor is not None and index in constants:
            network.constant(f"input{index}", tensor)
        elif tensor is not None:
            network.input(f"input{index}", NAMES[tensor.dtype], [-1] * tensor.ndim if dynamic else tensor.shape)
            given[f"input{index}"] = tensor.contiguous()
        names.append(name)
    network.layer(kind, names, "output", dtype, [-1] * len(dims) if dynamic else dims, metadata=metadata, **params)
    context = network.engine("output").create_execution_context()
    if communicator is not None:
        context.set_communicator(communicator)
    bound = bind(context, given)
    assert bound["output"].shape == torch.Size(dims)
    assert context.execute_async_v3(0)
    return bound["output"]
