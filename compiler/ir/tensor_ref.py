"""Lazy references to tensors in files."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A dense row-major tensor inside a file; nothing is read until its value is needed.

    Text form: `f16[256] "transformer.ln_f.weight" in "model.safetensors" at 8192`.

    Attributes:
        type: element type and shape, as stored.
        name: the tensor's name in the checkpoint, for messages.
        file: path of the file, relative to the graph's root.
        offset: bytes from the start of the file to the first element.
    """

    type: TensorType
    name: str
    file: str
    offset: int
