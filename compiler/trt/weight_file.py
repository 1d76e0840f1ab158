"""Where the tensors of a safetensors file lie: 8 bytes of length, JSON, then the tensors' bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from compiler.errors import EngineError

_AGAIN = "copy the engine again from where it came, or compile it again"


@dataclass(frozen=True)
class Span:
    """The bytes of a tensor.

    Attributes:
        start: where they begin in the file.
        nbytes: how many there are.
        itemsize: how many belong to one element.
    """

    start: int
    nbytes: int
    itemsize: int


def read_spans(path: Path) -> Mapping[str, Span]:
    """The tensors of the file at `path` by name; their data is not read.

    Raises:
        EngineError: naming the file, if it cannot be read, is truncated, or is no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            text = file.read(start - 8) if 8 < start <= size else b""
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}", hint=_AGAIN) from None
    try:
        header = json.loads(text)
        spans = {name: _span(start, entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise EngineError(f"{path} is no safetensors file, or its header is damaged", hint=_AGAIN) from None
    end = max((span.start + span.nbytes for span in spans.values()), default=start)
    if end > size:
        raise EngineError(f"{path} is truncated: it should have {end:,} bytes but has {size:,}", hint=_AGAIN)
    return spans


def _span(start: int, entry: Mapping[str, list[int]]) -> Span:
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end:
        raise ValueError(f"bytes from {begin} to {end}")
    return Span(start + begin, end - begin, (end - begin) // max(prod(entry["shape"]), 1))
