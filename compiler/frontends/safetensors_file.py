"""The tensors of a checkpoint's safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.frontends.file_kinds import AGAIN, SAFETENSORS, read_start, refuse_others
from compiler.store.safetensors_header import read_header
from compiler.store.stored_tensor import StoredTensor


def read_safetensors(path: Path, file: str) -> Mapping[str, StoredTensor]:
    """The tensors of the file at `path`, in the order of their bytes; `file` is what to call it. No data is read.

    Raises:
        CheckpointError: if the file is truncated or breaks the format.
    """
    refuse_others(read_start(path, file), file, SAFETENSORS, SAFETENSORS)
    try:
        return read_header(path, file).tensors
    except ValueError as error:
        raise CheckpointError(f"{file} {error}", hint=AGAIN) from None
