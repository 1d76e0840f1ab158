"""Weights outside of a model: in the engine's own file of weights, or repacked in one beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from compiler.progress import Report

Array = np.ndarray[Any, Any]

ALIGNMENT = 64
"""Where tensors begin: such that every kernel can read them in place."""


class _Part(NamedTuple):
    make: Callable[[], Array]
    offset: int
    size: int


@dataclass
class DataFile:
    """The tensors that a model needs in another form than the engine stores them. Nothing is made before `write`.

    Attributes:
        name: the name of the file, in the folder of the model.
        size: how many bytes it has.
    """

    name: str
    size: int = 0
    parts: list[_Part] = field(default_factory=list)

    def add(self, name: str, element_type: int, shape: tuple[int, ...], make: Callable[[], Array]) -> Any:
        """An initializer whose values `make` will give, as an array of that shape of elements of a byte or more."""
        itemsize = np.dtype(_NUMPY[element_type]).itemsize
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        size = int(np.prod(shape)) * itemsize
        self.parts.append(_Part(make, offset, size))
        self.size = offset + size
        return external(name, element_type, shape, self.name, offset, size)

    def write(self, folder: Path, progress: Report) -> None:
        """Make and write one tensor after the other; OSError if the folder cannot be written."""
        with (folder / self.name).open("wb") as file:
            for part in self.parts:
                array = part.make()
                assert array.nbytes == part.size
                file.write(bytes(part.offset - file.tell()))
                file.write(np.ascontiguousarray(array).data)
                progress(file.tell(), self.size)


def external(name: str, element_type: int, shape: tuple[int, ...], file: str, offset: int, size: int) -> Any:
    """An initializer whose bytes lie in a file beside the model."""
    tensor = TensorProto(name=name, data_type=element_type, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", file), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


_NUMPY: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT8: np.int8,
}
