"""The tensors of any safetensors file, as constants of graphs can point at them."""

from __future__ import annotations

import os
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType
from compiler.os_errors import reading_hint
from compiler.store.safetensors_header import read_header


def read_tensors(path: str | os.PathLike[str]) -> dict[str, TensorRef]:
    """Where the tensors of a safetensors file lie, by name; `builder.const(data=...)` makes a constant of one.

    Only the header is read. Tensors are read when an engine's weights are written.

    Raises:
        CheckpointError: if the file is missing or damaged, or has a tensor of an element type that graphs do not have.
    """
    file = Path(path).expanduser().absolute()
    try:
        tensors = read_header(file).tensors
    except OSError as error:
        hint = reading_hint(error, "give a safetensors file")
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", hint=hint) from None
    except ValueError as error:
        raise CheckpointError(f"{path} {error}", hint="copy the file again") from None
    refs = {}
    for name, tensor in tensors.items():
        if tensor.dtype is None:
            raise CheckpointError(f"{path}: the tensor {name!r} has the element type {tensor.spelling}")
        refs[name] = TensorRef(TensorType(tensor.dtype, tensor.shape), name, tensor.file, tensor.offset)
    return refs
