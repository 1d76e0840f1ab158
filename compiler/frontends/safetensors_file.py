"""The tensors of a checkpoint's safetensors file."""

from __future__ import annotations

import math
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.frontends.stored import StoredTensor
from compiler.ir.dtypes import DType
from compiler.ir.safetensors_header import Entry, read_header

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
_AGAIN = "download or copy the file again"
_LFS = b"version https://git-lfs"


def read_safetensors(path: Path, file: str) -> dict[str, StoredTensor]:
    """The tensors of the file at `path`, in the order of their bytes; `file` is what to call it. No data is read.

    Raises:
        CheckpointError: if the file is truncated or breaks the format.
    """
    if is_lfs_pointer(path):
        raise lfs_pointer(file, path.stat().st_size)
    try:
        entries = read_header(path)
    except ValueError as error:
        raise CheckpointError(f"{file} {error}", hint=_AGAIN) from None
    return {name: _tensor(name, file, entry) for name, entry in sorted(entries.items(), key=lambda e: e[1].start)}


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file at `path` stands for one whose content was never fetched; False if there is no file."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_LFS)) == _LFS
    except FileNotFoundError:
        return False


def lfs_pointer(file: str, size: int, what: str = "the weights") -> CheckpointError:
    """The error for a file whose content, which is `what`, was never fetched."""
    return CheckpointError(f"{file} is a Git LFS pointer of {size} bytes, not {what}", hint="fetch them: git lfs pull")


def _tensor(name: str, file: str, entry: Entry) -> StoredTensor:
    bits, dtype = _DTYPES.get(entry.dtype, (None, None))
    if bits is not None and entry.nbytes * 8 != math.prod(entry.shape) * bits:
        raise CheckpointError(
            f"{file} is no safetensors file: its header cannot be read "
            f"(tensor {name!r} of {entry.dtype} and shape {list(entry.shape)} cannot take {entry.nbytes} bytes)",
            hint=_AGAIN,
        )
    return StoredTensor(name, file, entry.start, entry.dtype, dtype, entry.shape)
