"""Writing safetensors files one tensor at a time, so that no more than one is in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.tensor_data import stored_bytes
from compiler.ir.types import TensorType
from compiler.store.safetensors_dtypes import SPELLINGS

# Vector loads and direct I/O want the data aligned; the header is padded with spaces to it, as the format allows.
_ALIGNMENT = 64


class SafetensorsWriter:
    """A safetensors file that is written one tensor at a time, in any order. A context manager.

    Attributes:
        places: the offset of each tensor from the start of the file, in bytes.
        total: the bytes of all tensors.
    """

    def __init__(self, path: Path, types: Mapping[str, TensorType], metadata: Mapping[str, str] | None = None) -> None:
        """Lay out a file, and write its header.

        Args:
            path: the file to write.
            types: the tensors that will come, in the order in which they shall lie in the file; i4 is stored as bytes.
            metadata: texts for whoever reads the file.

        Raises:
            OSError: if the file cannot be written.
        """
        header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        offsets: dict[str, int] = {}
        self.total = 0
        for name, type_ in types.items():
            start, self.total = self.total, self.total + type_.nbytes
            header[name] = {**_described(type_), "data_offsets": [start, self.total]}
            offsets[name] = start
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % _ALIGNMENT)
        begin = 8 + len(text)
        self.places = {name: begin + offset for name, offset in offsets.items()}
        self._types = types
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(begin + self.total)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, contiguous, at its place; OSError if that fails."""
        self._file.seek(self.places[name])
        self._file.write(stored_bytes(tensor, self._types[name].dtype).numpy().data)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _described(type_: TensorType) -> dict[str, object]:
    """The format has no i4: two values of it are a byte."""
    if type_.dtype is DType.i4:
        return {"dtype": "U8", "shape": [type_.nbytes]}
    return {"dtype": SPELLINGS[type_.dtype], "shape": list(type_.shape)}
