"""Writing safetensors files one tensor at a time, so that no more than one is in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.ir.tensor_data import pack_int4

_SPELLING = {
    DType.f64: "F64",
    DType.f32: "F32",
    DType.f16: "F16",
    DType.bf16: "BF16",
    DType.f8e4m3: "F8_E4M3",
    DType.i64: "I64",
    DType.i32: "I32",
    DType.i8: "I8",
    DType.u8: "U8",
    DType.bool: "BOOL",
}
# Vector loads and direct I/O want the data aligned; the header is padded with spaces to it, as the format allows.
_ALIGNMENT = 64


class SafetensorsWriter:
    """A safetensors file that is written one tensor at a time, in any order. A context manager.

    Attributes:
        places: the offset of each tensor from the start of the file, in bytes.
        total: the bytes of all tensors.
    """

    def __init__(self, path: Path, values: Sequence[Value]) -> None:
        """Lay out a file, and write its header.

        Args:
            path: the file to write.
            values: what will come, in the order in which it shall lie in the file; i4 is stored as bytes.

        Raises:
            OSError: if the file cannot be written.
        """
        header: dict[str, object] = {}
        offsets: dict[str, int] = {}
        self.total = 0
        for value in values:
            start, self.total = self.total, self.total + value.type.nbytes
            header[value.name] = {**_described(value), "data_offsets": [start, self.total]}
            offsets[value.name] = start
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % _ALIGNMENT)
        begin = 8 + len(text)
        self.places = {name: begin + offset for name, offset in offsets.items()}
        self._packed = {value.name for value in values if value.type.dtype is DType.i4}
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(begin + self.total)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, contiguous, at its place; OSError if that fails."""
        self._file.seek(self.places[name])
        data = pack_int4(tensor) if name in self._packed else tensor.reshape(-1).view(torch.uint8)
        self._file.write(data.numpy().data)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _described(value: Value) -> dict[str, object]:
    """The format has no i4: two values of it are a byte."""
    if value.type.dtype is DType.i4:
        return {"dtype": "U8", "shape": [value.type.nbytes]}
    return {"dtype": _SPELLING[value.type.dtype], "shape": list(value.type.shape)}
