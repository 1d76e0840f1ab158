"""The values of CONSTANT layers: in the weights file of an engine, or in the record itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compiler.errors import EngineError
from compiler.ir.tensor_data import view_bytes
from compiler.store.weight_bytes import WeightBytes
from compiler.trt_network.record import NetworkRecord


def recorded_constants(record: NetworkRecord, weights: Callable[[], WeightBytes]) -> Callable[[str], Tensor]:
    """What gives the values of a CONSTANT layer by its name, a view of the weights if they lie there.

    It raises EngineError for a layer without values, and for values that are missing or too short.

    Args:
        record: the network.
        weights: gives the bytes of the weights file; called if a constant lies there.
    """
    outputs = {layer.name: layer.outputs[0] for layer in record.layers if layer.kind == "CONSTANT"}

    def constant(name: str) -> Tensor:
        tensor, source = record.tensors[outputs[name]], record.constants.get(name)
        if source is None:
            raise EngineError(f"the record lacks the values of constant {name!r}", hint="compile the engine again")
        if not isinstance(source, bytes):
            data = weights().view(source.tensor, tensor.nbytes, source.offset)
        elif len(source) == tensor.nbytes:
            data = torch.tensor(bytearray(source), dtype=torch.uint8)
        else:
            raise EngineError(
                f"constant {name!r} has {len(source)} bytes for {tensor.dtype}{list(tensor.shape)}",
                hint="compile the engine again",
            )
        return view_bytes(data, tensor.type)

    return constant
