"""Reading the header of a safetensors file: 8 bytes of length, JSON, then the tensors' bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from compiler.errors import CheckpointError
from compiler.frontends.stored import StoredTensor
from compiler.ir.dtypes import DType

# Spelling → bits an element, and the IR's element type if there is one.
_DTYPES: dict[str, tuple[int, DType | None]] = {
    "F64": (64, DType.f64),
    "F32": (32, DType.f32),
    "F16": (16, DType.f16),
    "BF16": (16, DType.bf16),
    "F8_E4M3": (8, DType.f8e4m3),
    "F8_E5M2": (8, None),
    "I64": (64, DType.i64),
    "I32": (32, DType.i32),
    "I16": (16, None),
    "I8": (8, DType.i8),
    "U64": (64, None),
    "U32": (32, None),
    "U16": (16, None),
    "U8": (8, DType.u8),
    "BOOL": (8, DType.bool),
}
_LARGEST_HEADER = 100_000_000  # the format's own limit
_AGAIN = "download or copy the file again"


def read_safetensors(path: Path, file: str) -> dict[str, StoredTensor]:
    """The tensors of the file at `path`, in the order of their bytes; `file` is what to call it. No data is read.

    Raises:
        CheckpointError: if the file is truncated or breaks the format.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(8)
        length = int.from_bytes(first, "little")
        if first.startswith(b"version "):
            raise lfs_pointer(file, size)
        if size < 8 or length > size - 8:
            raise CheckpointError(
                f"{file} is truncated: its header needs {8 + length:,} bytes, the file has {size:,}", hint=_AGAIN
            )
        if length > _LARGEST_HEADER:
            raise CheckpointError(f"{file} is no safetensors file: it claims a header of {length:,} bytes")
        text = stream.read(length)
    try:
        header = json.loads(text)
        entries = {
            name: _entry(name, file, 8 + length, entry) for name, entry in header.items() if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is no safetensors file: its header cannot be read ({error})", hint=_AGAIN
        ) from None
    end = max((end for _, end in entries.values()), default=8 + length)
    if end > size:
        raise CheckpointError(f"{file} is truncated: it should have {end:,} bytes but has {size:,}", hint=_AGAIN)
    return {name: tensor for name, (tensor, _) in sorted(entries.items(), key=lambda item: item[1][0].offset)}


def lfs_pointer(file: str, size: int) -> CheckpointError:
    """The error for a file whose content was never fetched."""
    return CheckpointError(
        f"{file} is a Git LFS pointer of {size} bytes, not the weights", hint="fetch them: git lfs pull"
    )


def _entry(name: str, file: str, start: int, entry: dict[str, Any]) -> tuple[StoredTensor, int]:
    """The tensor and the end of its bytes in the file."""
    begin, end = map(int, entry["data_offsets"])
    shape = tuple(map(int, entry["shape"]))
    spelling = str(entry["dtype"])
    bits, dtype = _DTYPES.get(spelling, (None, None))
    if begin < 0 or min(shape, default=0) < 0:
        raise ValueError(f"tensor {name!r} has a negative size or offset")
    if bits is not None and (end - begin) * 8 != math.prod(shape) * bits:
        raise ValueError(f"tensor {name!r} of {spelling} and shape {list(shape)} cannot take {end - begin} bytes")
    return StoredTensor(name, file, start + begin, spelling, dtype, shape), start + end
