"""A model as a checkpoint holds it: its tensors by name, as values of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.exporters.inputs import InputForm
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.ir.types import TensorType

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class QuantizedModule:
    """A linear of the checkpoint whose weight is quantized.

    Attributes:
        name: the module's name.
        q: the integers or 8-bit floats, `[N, K]`.
        scale: its scales, `[1, 1]`, `[N, 1]`, or one for each block of rows and columns.
        zero: its zero points, of the scale's shape; None if there are none.
        input: what is done to its inputs.
        scale_dtype: the narrowest type in which its scales lose nothing.
    """

    name: str
    q: Value
    scale: Value
    zero: Value | None
    input: InputForm
    scale_dtype: DType

    @property
    def dtype(self) -> DType:
        """The element type of the weight."""
        return self.q.type.dtype

    @property
    def bits(self) -> int:
        """The bits of an element."""
        return self.dtype.bits

    @property
    def sizes(self) -> tuple[int, int]:
        """How many outputs and inputs it has."""
        out, width = self.q.type.sizes({})
        return out, width

    @property
    def block(self) -> tuple[int, int]:
        """How many rows and columns share a scale."""
        rows, columns = self.scale.type.sizes({})
        return self.sizes[0] // rows, self.sizes[1] // columns

    @property
    def by_row(self) -> bool:
        """Whether each row has scales of its own, or all have a single one, so that each might have it."""
        return self.block[0] == 1 or self.block == self.sizes

    @property
    def group(self) -> int:
        """How many inputs share a scale; -1 for all."""
        return -1 if self.block[1] == self.sizes[1] else self.block[1]


@dataclass(frozen=True)
class CacheModule:
    """How a cache is quantized: the attention module of the checkpoint, `k` or `v`, the type, and the scales."""

    name: str
    which: str
    dtype: DType
    scale: Value


@dataclass(frozen=True)
class ExportedModel:
    """A model as a checkpoint holds it.

    Attributes:
        config: the content of `config.json`, without what says how it is quantized.
        names: the names of all tensors of an unquantized checkpoint, in the order of the model.
        plain: the tensors that are not quantized, by name.
        divisors: those of them that only some checkpoints of the family have, and that activations are divided by.
        quantized: the linears that are, by name.
        others: the names of the linears that are not.
        caches: the caches that are quantized.
        cache_count: how many caches there are.
    """

    config: Mapping[str, Any]
    names: tuple[str, ...]
    plain: Mapping[str, Value]
    divisors: tuple[str, ...]
    quantized: Mapping[str, QuantizedModule]
    others: tuple[str, ...]
    caches: tuple[CacheModule, ...]
    cache_count: int


@dataclass(frozen=True)
class ExportedTensor:
    """A tensor to write.

    Attributes:
        name: its name in the checkpoint.
        type: its type there.
        value: the value of the graph that it is made from.
        encode: makes the one from the other; None if they are the same.
    """

    name: str
    type: TensorType
    value: Value
    encode: Callable[[Tensor], Tensor] | None = None
