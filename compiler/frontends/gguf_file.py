"""The keys and tensors of a GGUF file (llama.cpp's format), from its header. No tensor is read."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from compiler.errors import CheckpointError
from compiler.frontends.file_kinds import AGAIN, read_start
from compiler.ir.dtypes import DType
from compiler.ir.ops.unpack import BLOCKS
from compiler.store.stored_tensor import StoredTensor

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_STRING, _ARRAY, _BOOL = 8, 9, 7
# The number of a type of keys → how struct calls it.
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
# The number of a type of tensors → its name, bytes and type in the IR.
_ELEMENTS: Mapping[int, tuple[str, int, DType | None]] = {
    0: ("f32", 4, DType.f32),
    1: ("f16", 2, DType.f16),
    24: ("i8", 1, DType.i8),
    25: ("i16", 2, None),
    26: ("i32", 4, DType.i32),
    27: ("i64", 8, DType.i64),
    28: ("f64", 8, DType.f64),
    30: ("bf16", 2, DType.bf16),
}
_BLOCKED = {
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    10: "q2_k",
    11: "q3_k",
    12: "q4_k",
    13: "q5_k",
    14: "q6_k",
}
_MOST_DIMS, _MOST_BYTES = 4, 1 << 32  # of a header; what says more is damaged


@dataclass(frozen=True)
class GgufFile:
    """What a file holds.

    Attributes:
        path: the file.
        keys: its metadata.
        tensors: the tensors in the order of the file; those in blocks as bytes, `[..., bytes of a row]`.
        formats: the format of those in blocks, by name.
    """

    path: Path
    keys: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    formats: Mapping[str, str]


def is_gguf(path: Path) -> bool:
    """Whether there is such a file at a path."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_gguf(path: Path, file: str) -> GgufFile:
    """The header of the file at `path`; `file` is what to call it.

    Raises:
        CheckpointError: if it is damaged, or of another version, byte order or type than is supported.
    """
    if not read_start(path, file).startswith(MAGIC):
        raise CheckpointError(f"{file} is no GGUF file", hint=AGAIN)
    try:
        with path.open("rb") as stream:
            return _Reader(stream, path, file).read()
    except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{file} is damaged: its header cannot be read ({error})", hint=AGAIN) from None


class _Reader:
    def __init__(self, stream: IO[bytes], path: Path, file: str) -> None:
        self.stream = stream
        self.path = path
        self.file = file
        self.size = os.fstat(stream.fileno()).st_size

    def read(self) -> GgufFile:
        """The whole header."""
        self.stream.seek(len(MAGIC))
        version = self.one("I")
        if version not in _VERSIONS:
            swapped = version >> 16 and not version & 0xFFFF
            raise CheckpointError(
                f"{self.file} is {'big-endian' if swapped else f'of version {version}'}, which is not supported; "
                f"supported: little-endian, versions {', '.join(map(str, _VERSIONS))}",
                hint="convert the original checkpoint again with a newer llama.cpp",
            )
        count, keys_count = self.one("Q"), self.one("Q")
        keys: dict[str, Any] = {}
        for _ in range(keys_count):
            key = self.string()
            keys[key] = self.value(self.one("I"))
        infos = [self.info() for _ in range(count)]
        alignment = int(keys.get("general.alignment", _ALIGNMENT))
        start = math.ceil(self.stream.tell() / max(alignment, 1)) * max(alignment, 1)
        tensors: dict[str, StoredTensor] = {}
        formats: dict[str, str] = {}
        for name, shape, kind, offset in infos:
            if name in tensors:
                raise CheckpointError(f"{self.file} holds the tensor {name!r} twice", hint=AGAIN)
            tensors[name] = self.tensor(name, shape, kind, start + offset)
            if kind in _BLOCKED:
                formats[name] = _BLOCKED[kind]
        return GgufFile(self.path, keys, tensors, formats)

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> StoredTensor:
        """A tensor; CheckpointError if its type is not supported, or it reaches beyond the file."""
        if kind in _BLOCKED:
            numbers, nbytes, *_ = BLOCKS[_BLOCKED[kind]]
            if not shape or shape[-1] % numbers:
                raise CheckpointError(f"the tensor {name!r} in {self.file} is not in blocks of {numbers}", hint=AGAIN)
            spelling, width, dtype = _BLOCKED[kind], 1, DType.u8
            shape = (*shape[:-1], shape[-1] // numbers * nbytes)
        elif kind in _ELEMENTS:
            spelling, width, found = _ELEMENTS[kind]
            dtype = found  # type: ignore[assignment]
        else:
            raise CheckpointError(
                f"the tensor {name!r} in {self.file} is of the type {kind} of GGUF, which is not supported; supported: "
                f"{', '.join([*(found[0] for found in _ELEMENTS.values()), *_BLOCKED.values()])}",
                hint="take a file of another quantization, such as Q8_0, Q6_K or Q4_K_M",
            )
        total = math.prod(shape) * width
        if offset + total > self.size:
            raise CheckpointError(
                f"{self.file} ends inside the tensor {name!r}: it has {self.size:,} bytes, "
                f"and {offset + total:,} are needed",
                hint=AGAIN,
            )
        return StoredTensor(name, self.file, offset, total, spelling, dtype, shape)

    def info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset of a tensor; dims are stored from the innermost outwards."""
        name, dims = self.string(), self.one("I")
        if dims > _MOST_DIMS:
            raise CheckpointError(f"{self.file} is damaged: the tensor {name!r} has {dims} dims", hint=AGAIN)
        shape = tuple(self.one("Q") for _ in range(dims))[::-1]
        return name, shape, self.one("I"), self.one("Q")

    def value(self, kind: int) -> Any:
        """A value of a type."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.one("I"), self.one("Q")
            if inner in _SCALARS:
                layout = f"<{count}{_SCALARS[inner]}"
                return list(struct.unpack(layout, self.take(struct.calcsize(layout))))
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise CheckpointError(f"{self.file} is damaged: a key has the type {kind}", hint=AGAIN)
        return self.one(_SCALARS[kind])

    def one(self, kind: str) -> Any:
        """A number."""
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def string(self) -> str:
        """A text after its length."""
        return self.take(self.one("Q")).decode("utf-8")

    def take(self, count: int) -> bytes:
        """Some bytes; CheckpointError if the file ends before."""
        data = self.stream.read(count) if count <= min(self.size, _MOST_BYTES) else b""
        if len(data) < count:
            raise CheckpointError(
                f"{self.file} ends inside its header, or is damaged ({self.size:,} bytes)", hint=AGAIN
            )
        return data
