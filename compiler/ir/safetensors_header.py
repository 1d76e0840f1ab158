"""The header of a safetensors file: 8 bytes of length, JSON, then the tensors' bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

_LARGEST = 100_000_000  # the format's own limit


class Entry(NamedTuple):
    """A tensor: its element type as the file spells it, its shape, and where its bytes begin and end in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """How many bytes there are."""
        return self.end - self.start

    @property
    def itemsize(self) -> int:
        """How many bytes belong to one element."""
        return self.nbytes // max(math.prod(self.shape), 1)


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of the file at `path` by name; their data is not read.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is truncated or breaks the format, saying so after the file's name: `is truncated: ...`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if size < 8 or start > size:
            raise ValueError(f"is truncated: its header needs {start:,} bytes, the file has {size:,}")
        if start > _LARGEST:
            raise ValueError(f"is no safetensors file: it claims a header of {start - 8:,} bytes")
        text = file.read(start - 8)
    try:
        header = json.loads(text)
        entries = {name: _entry(name, start, entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"is no safetensors file: its header cannot be read ({error})") from None
    end = max((entry.end for entry in entries.values()), default=start)
    if end > size:
        raise ValueError(f"is truncated: it should have {end:,} bytes but has {size:,}")
    return entries


def _entry(name: str, start: int, entry: dict[str, Any]) -> Entry:
    begin, end = map(int, entry["data_offsets"])
    shape = tuple(map(int, entry["shape"]))
    if not 0 <= begin <= end or min(shape, default=0) < 0:
        raise ValueError(f"tensor {name!r} has a negative size or offset")
    return Entry(str(entry["dtype"]), shape, start + begin, start + end)
