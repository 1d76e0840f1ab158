"""The header of a safetensors file: 8 bytes of length, JSON, then the tensors' bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.store.safetensors_dtypes import bits_of, dtype_of
from compiler.store.stored_tensor import StoredTensor

_LARGEST = 100_000_000  # the format's own limit
_METADATA = "__metadata__"


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a header says.

    Attributes:
        tensors: the tensors by name, in the order of their bytes.
        metadata: texts that its writer has put there.
    """

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def read_header(path: Path, file: str = "") -> SafetensorsHeader:
    """The header of the file at `path`; the tensors' data is not read.

    Args:
        path: the file.
        file: what the tensors say they lie in; its path if empty.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is truncated or breaks the format, saying so after the file's name: `is truncated: ...`.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        if size < 8 or start > size:
            raise ValueError(f"is truncated: its header needs {start:,} bytes, the file has {size:,}")
        if start > _LARGEST:
            raise ValueError(f"is no safetensors file: it claims a header of {start - 8:,} bytes")
        text = stream.read(start - 8)
    try:
        header = json.loads(text)
        metadata = {str(key): str(value) for key, value in header.pop(_METADATA, {}).items()}
        tensors = [_tensor(name, file or str(path), start, entry) for name, entry in header.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"is no safetensors file: its header cannot be read ({error})") from None
    end = max((tensor.offset + tensor.nbytes for tensor in tensors), default=start)
    if end > size:
        raise ValueError(f"is truncated: it should have {end:,} bytes but has {size:,}")
    return SafetensorsHeader({tensor.name: tensor for tensor in sorted(tensors, key=_place)}, metadata)


def _place(tensor: StoredTensor) -> int:
    return tensor.offset


def _tensor(name: str, file: str, start: int, entry: dict[str, Any]) -> StoredTensor:
    begin, end = map(int, entry["data_offsets"])
    shape, spelling = tuple(map(int, entry["shape"])), str(entry["dtype"])
    if not 0 <= begin <= end or min(shape, default=0) < 0:
        raise ValueError(f"tensor {name!r} has a negative size or offset")
    bits = bits_of(spelling)
    if bits is not None and (end - begin) * 8 != math.prod(shape) * bits:
        raise ValueError(f"tensor {name!r} of {spelling} and shape {list(shape)} cannot take {end - begin} bytes")
    return StoredTensor(name, file, start + begin, end - begin, spelling, dtype_of(spelling), shape)
