"""The values of CONSTANT layers: in the weights file of an engine, or in the record itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from compiler.errors import EngineError
from compiler.trt_emulator.memory import byte_count, from_bytes
from compiler.trt_emulator.weights_file import WeightsFile
from compiler.trt_network.record import NetworkRecord


def map_constants(record: NetworkRecord, weights: Path) -> Callable[[str], Tensor]:
    """What gives the values of a CONSTANT layer by its name; it views the weights file, which is mapped when needed.

    What it gives raises EngineError for a layer without values, and for values that are missing or too short.
    """
    outputs = {layer.name: layer.outputs[0] for layer in record.layers if layer.kind == "CONSTANT"}

    @cache
    def mapped() -> WeightsFile:
        return WeightsFile(weights)

    def constant(name: str) -> Tensor:
        tensor, source = record.tensors[outputs[name]], record.constants.get(name)
        nbytes = byte_count(tensor.dtype, tensor.shape)
        if source is None:
            raise EngineError(f"the record lacks the values of constant {name!r}", hint="compile the engine again")
        if not isinstance(source, bytes):
            data = mapped().view(source.tensor, source.offset, nbytes)
        elif len(source) == nbytes:
            data = torch.tensor(bytearray(source), dtype=torch.uint8)
        else:
            raise EngineError(
                f"constant {name!r} has {len(source)} bytes for {tensor.dtype}{list(tensor.shape)}",
                hint="compile the engine again",
            )
        return from_bytes(data, tensor.dtype, tensor.shape)

    return constant
