"""The values of CONSTANT layers, where they lie in the files of an engine directory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from compiler.errors import EngineError
from compiler.trt.emulator.memory import byte_count, from_bytes
from compiler.trt.record import NetworkRecord


def map_constants(record: NetworkRecord, folder: Path) -> Callable[[str], Tensor]:
    """What gives the values of a CONSTANT layer by its name: views of the files, mapped once each, never copied.

    What it gives raises EngineError for a layer without a place, and for a file that is missing or too short.
    """
    outputs = {layer.name: layer.outputs[0] for layer in record.layers if layer.kind == "CONSTANT"}

    @cache
    def mapped(file: str) -> Tensor:
        path = folder / file
        try:
            size = path.stat().st_size
            return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            raise EngineError(f"cannot read {path}: {error}", hint="compile the engine again") from None

    def constant(name: str) -> Tensor:
        if (place := record.constants.get(name)) is None:
            raise EngineError(f"the record does not say where constant {name!r} lies", hint="compile the engine again")
        tensor = record.tensors[outputs[name]]
        if place.nbytes != byte_count(tensor.dtype, tensor.shape):
            raise EngineError(
                f"constant {name!r} has {place.nbytes} bytes for {tensor.dtype}{list(tensor.shape)}",
                hint="compile the engine again",
            )
        data = mapped(place.file)
        if place.offset + place.nbytes > len(data):
            raise EngineError(
                f"{folder / place.file} ends inside constant {name!r}: {place.nbytes} bytes at {place.offset}, "
                f"only {len(data)} there",
                hint="the file is truncated; copy it or compile the engine again",
            )
        return from_bytes(data[place.offset : place.offset + place.nbytes], tensor.dtype, tensor.shape)

    return constant
