"""Looking at what a checkpoint stores, where that decides what the graph is.

A graph is lifted from headers. What is read besides is small (indices, zero points, buffers), or a copy that is
compared with its original, and is read when a frontend asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compiler.frontends.composed import ComposedTensor, SourceTensor, append_stored
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType
from compiler.store.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

# Bytes that are compared at a time.
_CHUNK = 1 << 24


def read_stored(stored: SourceTensor, folder: Path) -> Tensor:
    """The values of a tensor of the checkpoint in `folder`, in the tensor's shape.

    Raises:
        CheckpointError: if they cannot be read.
    """
    from compiler.ir.tensor_data import read_tensor  # torch takes a second to import, and few checkpoints need it

    if isinstance(stored, ComposedTensor):
        return _composed(stored, folder)
    values = read_tensor(stored.ref(), folder)
    return values if stored.perm is None else values.permute(stored.perm)


def same_values(a: SourceTensor, b: SourceTensor, folder: Path) -> bool:
    """Whether two tensors of the checkpoint in `folder` hold the same numbers. Both are read, a part at a time.

    Those of an element type that the IR does not know are never the same.

    Raises:
        CheckpointError: if they cannot be read.
    """
    if a.shape != b.shape or None in (a.dtype, b.dtype):
        return False
    if isinstance(a, StoredTensor) and isinstance(b, StoredTensor) and a.dtype is b.dtype and a.perm == b.perm:
        same_place = (a.file, a.offset) == (b.file, b.offset)  # files of torch name one storage twice
        return same_place or all(
            _bytes(a, start, folder).equal(_bytes(b, start, folder)) for start in range(0, a.nbytes, _CHUNK)
        )
    return bool((read_stored(a, folder).double() == read_stored(b, folder).double()).all())


def _composed(tensor: ComposedTensor, folder: Path) -> Tensor:
    from compiler.ir.interpreter import Interpreter

    b = Builder(tensor.name)
    b.output("values", append_stored(b, tensor, "values"))
    return Interpreter(b.build(str(folder)))({})["values"]


def _bytes(stored: StoredTensor, start: int, folder: Path) -> Tensor:
    """Some of the bytes of a tensor, in the order in which they are stored."""
    from compiler.ir.tensor_data import read_tensor

    part = TensorType(DType.u8, (min(_CHUNK, stored.nbytes - start),))
    return read_tensor(TensorRef(part, stored.name, stored.file, stored.offset + start), folder)
