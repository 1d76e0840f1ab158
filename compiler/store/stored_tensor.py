"""A tensor in a file of weights, as the file's header describes it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compiler.ir.dtypes import DType
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a checkpoint or an engine, known from headers alone. Graphs refer to it by a `TensorRef`.

    Attributes:
        name: its name in the file.
        file: the file that holds it; of a checkpoint relative to its folder.
        offset: bytes from the start of the file to the first element.
        nbytes: how many bytes its elements take.
        spelling: the element type as the file spells it.
        dtype: the element type, or None if the IR has no such type (some buffers that no model reads).
        layout: the shape of the elements in the order in which they are stored.
        perm: how to transpose the stored layout into the tensor; None if it is the tensor.
    """

    name: str
    file: str
    offset: int
    nbytes: int
    spelling: str
    dtype: DType | None
    layout: tuple[int, ...]
    perm: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.layout if self.perm is None else tuple(self.layout[i] for i in self.perm)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.layout)

    @property
    def is_aligned(self) -> bool:
        """Whether its first element lies at a multiple of an element's size, as views of a mapped file need it."""
        return self.offset % max(self.nbytes // max(self.elements, 1), 1) == 0

    def ref(self) -> TensorRef:
        """A lazy reference to the stored layout; only for tensors whose `dtype` is known."""
        assert self.dtype is not None
        return TensorRef(TensorType(self.dtype, self.layout), self.name, self.file, self.offset)
