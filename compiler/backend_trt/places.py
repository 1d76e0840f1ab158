"""Finding constants in an engine file.

TensorRT-RTX keeps most weights as it was given them, so that one engine serves several GPUs. Whoever knows where they
lie needs no second copy: the emulator and the interpreter read them from the engine itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compiler.trt.record import Place

# Smaller constants are not worth a search.
_LARGE = 1 << 16
_WORD = 8  # what constants are aligned to in the file
_CHUNK = 1 << 26
_TAIL = 64

Bytes = NDArray[np.uint8]


def find_constants(engine: Path, constants: Mapping[str, Tensor], rest: Path) -> dict[str, Place]:
    """Where the bytes of each constant lie in the engine; those that it does not hold as such are written to `rest`.

    TensorRT joins products of one operand, and stores their weights as one: those are among the rest. The engine is
    read once, whatever the number of constants.

    Args:
        engine: the engine file.
        constants: contiguous tensors, by name.
        rest: a file beside it, made if need be.
    """
    data = {name: _bytes(tensor) for name, tensor in constants.items()}
    content = np.memmap(engine, dtype=np.uint8, mode="r")
    places = {
        name: Place(engine.name, offset, len(data[name]))
        for name, offset in _search(content, {name: item for name, item in data.items() if len(item) >= _LARGE})
    }
    missing = [name for name in data if name not in places]
    if missing:
        with rest.open("wb") as file:
            for name in missing:
                places[name] = Place(rest.name, file.tell(), len(data[name]))
                file.write(data[name].data)
    return places


def _search(content: Bytes, wanted: Mapping[str, Bytes]) -> Iterator[tuple[str, int]]:
    """The constants that `content` holds, with their offsets. A word of each is looked for, then all of it."""
    names: dict[int, list[tuple[str, int]]] = {}
    for name, data in wanted.items():
        at = _telling_word(data)
        if at is not None:
            names.setdefault(int(data[at : at + 8].view(np.uint64)[0]), []).append((name, at))
    low_bits = np.zeros(1 << 16, dtype=bool)
    low_bits[[word & 0xFFFF for word in names]] = True
    found: set[str] = set()
    for start in range(0, len(content), _CHUNK):
        chunk = content[start : start + _CHUNK]
        words = chunk[: len(chunk) // _WORD * _WORD].view(np.uint64)
        for index in np.flatnonzero(low_bits[words & np.uint64(0xFFFF)]):
            for name, at in names.get(int(words[index]), ()):
                offset = start + int(index) * _WORD - at
                if name not in found and _is_at(content, offset, wanted[name]):
                    found.add(name)
                    yield name, offset


def _telling_word(data: Bytes) -> int | None:
    """The offset of the first word that is not zero; None if there is none."""
    words = data[: len(data) // _WORD * _WORD].view(np.uint64)
    nonzero = np.flatnonzero(words)
    return int(nonzero[0]) * _WORD if len(nonzero) else None


def _is_at(content: Bytes, offset: int, data: Bytes) -> bool:
    end = offset + len(data)
    if offset < 0 or end > len(content):
        return False
    return bool(np.array_equal(content[end - _TAIL : end], data[-_TAIL:]) and np.array_equal(content[offset:end], data))


def _bytes(tensor: Tensor) -> Bytes:
    flat = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
    data: Bytes = flat.numpy()
    return data
