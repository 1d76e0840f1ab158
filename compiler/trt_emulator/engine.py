"""What stands for `ICudaEngine`: the inputs, outputs and profiles of a recorded network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from functools import cache, partial
from pathlib import Path

from torch import Tensor

from compiler.errors import TargetError
from compiler.store.weight_bytes import WeightBytes
from compiler.trt_emulator.context import EmulatedContext
from compiler.trt_emulator.memory import TORCH_TYPES
from compiler.trt_emulator.plan import make_plan
from compiler.trt_emulator.recorded_constants import recorded_constants
from compiler.trt_network.dtypes import DataType
from compiler.trt_network.record import NetworkRecord, TensorRecord, read_record

Log = Callable[[str], None]
Shape = tuple[int, ...]

_warn: Log = logging.getLogger(__name__).warning


class TensorIOMode(Enum):
    """What a tensor is to the engine, named as TensorRT does."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class EmulatedEngine:
    """A recorded network behind the calls of `ICudaEngine`.

    Args:
        record: the network.
        constant: gives the values of each CONSTANT layer by the layer's name, in the recorded type and shape (INT4 as
            int8); called once for each, and the tensors are kept.
        log: takes the messages that TensorRT would give its logger.

    Raises:
        TargetError: if the emulator lacks a layer, a mode or a type of the network, or a constant does not fit.
    """

    def __init__(
        self,
        record: NetworkRecord,
        constant: Callable[[str], Tensor],
        log: Log = _warn,
    ) -> None:
        self.record = record
        self.plan = make_plan(record)
        self.constants = _read_constants(record, constant)
        self.log = log
        self._modes = dict.fromkeys(record.outputs, TensorIOMode.OUTPUT) | dict.fromkeys(
            record.inputs, TensorIOMode.INPUT
        )

    @property
    def name(self) -> str:
        """The network's name."""
        return self.record.name

    @property
    def num_layers(self) -> int:
        """How many layers the network has."""
        return len(self.record.layers)

    @property
    def num_io_tensors(self) -> int:
        """How many inputs and outputs there are."""
        return len(self.record.inputs) + len(self.record.outputs)

    @property
    def num_optimization_profiles(self) -> int:
        """How many profiles there are; one, if the network has none of its own."""
        return max(len(self.record.profiles), 1)

    @property
    def device_memory_size_v2(self) -> int:
        """Bytes of device memory that a context needs from its caller: none."""
        return 0

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        """Bytes of device memory that a context needs from its caller with one profile: none."""
        return 0

    def get_tensor_name(self, index: int) -> str:
        """The name of an input or output, the inputs first."""
        return (*self.record.inputs, *self.record.outputs)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Whether a tensor is an input, an output or neither."""
        return self._modes.get(name, TensorIOMode.NONE)

    def get_tensor_dtype(self, name: str) -> DataType:
        """The element type of an input or output."""
        return self.tensor(name).data_type

    def get_tensor_shape(self, name: str) -> Shape:
        """The dims of an input or output, -1 where they are dynamic."""
        return self.tensor(name).shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        """The least, the usual and the largest dims of an input in a profile."""
        shape = self.tensor(name).shape
        if not 0 <= profile_index < self.num_optimization_profiles:
            raise TargetError(
                f"engine {self.name!r} has no profile {profile_index}; it has {self.num_optimization_profiles}",
                hint="count profiles from 0",
            )
        profiles = self.record.profiles
        return list(profiles[profile_index].shapes.get(name, (shape,) * 3)) if profiles else [shape] * 3

    def get_aliased_input_tensor(self, name: str) -> str | None:
        """The input whose memory an output shares, if it does."""
        return self.record.aliases.get(name)

    def create_execution_context(self) -> EmulatedContext:
        """A new context, with profile 0."""
        return EmulatedContext(self)

    def tensor(self, name: str) -> TensorRecord:
        """An input or output; TargetError if there is none of that name."""
        if self.get_tensor_mode(name) is TensorIOMode.NONE:
            names = ", ".join(self.get_tensor_name(index) for index in range(self.num_io_tensors))
            raise TargetError(f"engine {self.name!r} has no input or output {name!r}", hint=f"it has {names}")
        return self.record.tensors[name]


def _read_constants(record: NetworkRecord, constant: Callable[[str], Tensor]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for layer in record.layers:
        if layer.kind != "CONSTANT":
            continue
        recorded, tensor = record.tensors[layer.outputs[0]], constant(layer.name)
        if tensor.dtype != TORCH_TYPES[recorded.dtype] or tuple(tensor.shape) != recorded.shape:
            raise TargetError(
                f"constant {layer.name!r} is {tensor.dtype}{list(tensor.shape)}, "
                f"but the record says {recorded.dtype}{list(recorded.shape)}",
                hint="compile the engine again",
            )
        result[recorded.name] = tensor
    return result


def open_emulated(folder: Path, network_file: str, weights_file: str, log: Log = _warn) -> EmulatedEngine:
    """The emulated engine of a plan.

    Args:
        folder: the engine directory.
        network_file: the file of the plan's network record.
        weights_file: the safetensors file in which the record's weights lie; read if a constant lies there.
        log: takes the messages that TensorRT would give its logger.

    Raises:
        EngineError: if a file is missing or damaged, or the weights file lacks a constant.
        TargetError: if the emulator lacks something of the network.
    """
    record = read_record(folder / network_file)
    weights = cache(partial(WeightBytes.mapped, folder / weights_file))
    return EmulatedEngine(record, recorded_constants(record, weights), log)
