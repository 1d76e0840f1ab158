"""Writing safetensors files one tensor at a time, so that no more than one is in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
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


def write_safetensors(
    path: Path,
    values: Sequence[Value],
    tensors: Iterable[tuple[Value, Tensor]],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write `tensors`, which are `values` in any order, into a safetensors file.

    Args:
        path: the file to write.
        values: what will come, in the order in which it shall lie in the file; i4 is stored as bytes.
        tensors: the values with their contents, contiguous; consumed one by one.
        progress: called with the bytes written so far and in total.

    Returns:
        The offset of each tensor from the start of the file, in bytes.

    Raises:
        OSError: if the file cannot be written.
    """
    header: dict[str, object] = {}
    places: dict[str, int] = {}
    total = 0
    for value in values:
        end = total + value.type.nbytes
        entry = {**_described(value), "data_offsets": [total, end]}
        header[value.name], places[value.name], total = entry, total, end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    start = 8 + len(text)
    done = 0
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value, tensor in tensors:
            file.seek(start + places[value.name])
            data = pack_int4(tensor) if value.type.dtype is DType.i4 else tensor.reshape(-1).view(torch.uint8)
            file.write(data.numpy().data)
            done += value.type.nbytes
            if progress:
                progress(done, total)
        file.truncate(start + total)
    return {name: start + place for name, place in places.items()}


def _described(value: Value) -> dict[str, object]:
    """The format has no i4: two values of it are a byte."""
    if value.type.dtype is DType.i4:
        return {"dtype": "U8", "shape": [value.type.nbytes]}
    return {"dtype": _SPELLING[value.type.dtype], "shape": list(value.type.shape)}
