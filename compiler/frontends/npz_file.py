"""The arrays of an .npz file of NumPy, from its headers. No array is read, and nothing is unpickled."""

from __future__ import annotations

import ast
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from compiler.errors import CheckpointError
from compiler.frontends.file_kinds import AGAIN, read_start
from compiler.ir.dtypes import DType
from compiler.store.stored_tensor import StoredTensor

_MAGIC = b"\x93NUMPY"
# How NumPy spells element types → bytes and the IR's type.
_ELEMENTS: Mapping[str, tuple[int, DType | None]] = {
    "<f8": (8, DType.f64),
    "<f4": (4, DType.f32),
    "<f2": (2, DType.f16),
    "|i1": (1, DType.i8),
    "|u1": (1, DType.u8),
    "|b1": (1, DType.bool),
    "<i4": (4, DType.i32),
    "<i8": (8, DType.i64),
}


def read_npz(path: Path, file: str) -> Mapping[str, StoredTensor]:
    """The arrays of the file at `path`, by name; `file` is what to call it.

    Raises:
        CheckpointError: if it is damaged, compressed, or holds Python objects.
    """
    read_start(path, file)
    damage = (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        SyntaxError,
        KeyError,
        TypeError,
        NotImplementedError,
        struct.error,
    )
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            return {info.filename.removesuffix(".npy"): _array(info, raw, file) for info in archive.infolist()}
    except damage as error:
        raise CheckpointError(f"{file} is no .npz file that can be read ({error})", hint=AGAIN) from None


def _array(info: zipfile.ZipInfo, raw: IO[bytes], file: str) -> StoredTensor:
    name = info.filename.removesuffix(".npy")
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{file} is compressed", hint="write it again with numpy.savez")
    # The bytes follow a local header whose name and padding have lengths of their own.
    raw.seek(info.header_offset + 26)
    start = info.header_offset + 30 + sum(struct.unpack("<HH", raw.read(4)))
    raw.seek(start)
    head = raw.read(8)
    if not head.startswith(_MAGIC):
        raise ValueError(f"{name!r} is no array")
    size = 2 if head[6] == 1 else 4
    length = int.from_bytes(raw.read(size), "little")
    described: dict[str, Any] = ast.literal_eval(raw.read(length).decode("latin1"))
    kind, shape = described["descr"], tuple(map(int, described["shape"]))
    if kind not in _ELEMENTS:
        raise CheckpointError(
            f"the array {name!r} in {file} holds elements of the type {kind!r}, which is not supported"
        )
    if described["fortran_order"] and len(shape) > 1:
        raise CheckpointError(f"the array {name!r} in {file} is stored column by column, which is not supported")
    width, dtype = _ELEMENTS[kind]
    offset = start + 8 + size + length
    if 8 + size + length + math.prod(shape) * width != info.file_size:
        raise ValueError(f"{name!r} has another size than its header says")
    return StoredTensor(name, file, offset, math.prod(shape) * width, kind, dtype, shape)
