"""The values of tensors as the bytes that stand for them in files, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compiler.errors import CheckpointError, WeightsGoneError
from compiler.ir.dtypes import DType
from compiler.ir.int4 import pack_int4, unpack_int4
from compiler.ir.op import Op
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.torch_types import to_torch
from compiler.ir.types import TensorType
from compiler.os_errors import reading_hint

_MOVED = "the weights were moved or deleted since the graph was made; restore the file or lift again"


def read_tensor(ref: TensorRef, root: str | Path) -> Tensor:
    """The tensor as stored, in memory of its own.

    Raises:
        WeightsGoneError: if the file cannot be read.
        CheckpointError: if it ends before the tensor does.
    """
    path = Path(root) / ref.file
    nbytes = ref.type.nbytes
    data = np.empty(nbytes, dtype=np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(ref.offset)
            view, got = memoryview(data.data), 0
            while got < nbytes and (count := file.readinto(view[got:])):
                got += count
    except OSError as error:
        raise WeightsGoneError(
            f"cannot read tensor {ref.name!r} from {path}: {error.strerror or error}", hint=reading_hint(error, _MOVED)
        ) from error
    if got < nbytes:
        raise CheckpointError(shortage(path, ref, got), hint="the file is truncated; copy or download it again")
    return view_bytes(torch.from_numpy(data), ref.type)


def read_const(op: Op, root: str | Path, *, flat: bool = False) -> Tensor:
    """The tensor that a `const` is; with `flat`, its bytes as they are stored.

    Raises:
        CheckpointError: as of `read_tensor`, naming the op.
    """
    ref: TensorRef = op.attrs["data"]
    if flat:
        ref = replace(ref, type=TensorType(DType.u8, (ref.type.nbytes,)))
    try:
        return read_tensor(ref, root)
    except CheckpointError as error:
        raise type(error)(f"const %{op.name} from {op.origin}: {error.message}", hint=error.hint) from error


def shortage(path: Path, ref: TensorRef, there: int) -> str:
    """The message for a file that ends inside a tensor, of whose bytes only so many are there."""
    return f"{path} ends inside tensor {ref.name!r}: {ref.type.nbytes} bytes at offset {ref.offset}, only {there} there"


def view_bytes(data: Tensor, type_: TensorType) -> Tensor:
    """Stored bytes, a flat `uint8` tensor, seen as a tensor of `type_`: a view where they are aligned, else a copy.

    Integers of 4 bits are unpacked into int8; see `compiler.ir.int4`.
    """
    if type_.elements == 0:
        return torch.empty(type_.sizes({}), dtype=to_torch(type_.dtype), device=data.device)
    if type_.dtype is DType.i4:
        return unpack_int4(data, type_.elements).view(type_.sizes({}))
    if data.storage_offset() * 8 % type_.dtype.bits:
        data = data.clone()  # torch views aligned memory only
    return data.view(to_torch(type_.dtype)).view(type_.sizes({}))


def stored_bytes(values: Tensor, dtype: DType) -> Tensor:
    """The bytes in which values are stored, a flat `uint8` tensor: inverse of `view_bytes`.

    Args:
        values: contiguous; i4 as int8.
        dtype: their element type.

    Returns:
        A view of the values, except for i4.
    """
    return pack_int4(values) if dtype is DType.i4 else values.reshape(-1).view(torch.uint8)
