"""Cases of the table of what TensorRT takes: graphs of one op."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compiler.ir.builder import Builder
from compiler.ir.dims import Dim, Shape, shape_text, symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange, Graph
from compiler.ir.op import Value
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.torch_types import to_torch
from compiler.ir.types import TensorType

B, S = symbol("B"), symbol("S")
INPUT, LITERAL, WEIGHT = "input", "literal", "weight"


@dataclass
class CaseBuilder:
    """Builds the graph of a case: one op with its operands.

    Attributes:
        dtype: the element type that is tried.
        weights: the stored constants, by name.
        values: inputs whose values matter, by name.
    """

    dtype: DType
    b: Builder = field(default_factory=lambda: Builder("g"))
    weights: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.b.dims = {"B": DimRange(1, 2, 4), "S": DimRange(1, 3, 8)}

    def x(self, *shape: Dim, how: str = INPUT, dtype: DType | None = None) -> Value:
        """An operand: an input, a literal or a stored weight."""
        dtype = dtype or self.dtype
        if how == INPUT:
            return self.b.input(self.b.unique("x") + "i", dtype, *shape)
        if how == LITERAL:
            count = TensorType(dtype, shape).elements
            values = tuple(float(i % 3) if not dtype.is_float else math.sin(1.7 * i) for i in range(count))
            return self.b.literal(dtype=dtype, shape=shape, values=values or (0.0,))
        name = self.b.unique("w") + "e"
        type_ = TensorType(dtype, shape)
        self.weights[name] = torch.sin(torch.arange(type_.elements) * 1.3).reshape(type_.sizes({})).to(to_torch(dtype))
        return self.b.const(data=TensorRef(type_, name, name, 0), name=name)

    def indices(self, *shape: Dim, below: int, dtype: DType = DType.i32) -> Value:
        """An input of indices."""
        value = self.x(*shape, dtype=dtype)
        sizes = value.type.sizes({"B": 2, "S": 5})
        self.values[value.name] = (torch.arange(math.prod(sizes)) % below).reshape(sizes).to(to_torch(dtype))
        return value


Make = Callable[[CaseBuilder], Any]


@dataclass(frozen=True)
class Case:
    """What is tried: one op of a kind, on one element type, with shapes and attributes that the label tells."""

    kind: str
    dtype: DType
    label: str
    make: Make

    def graph(self) -> tuple[Graph, CaseBuilder]:
        """The graph and the builder that made it; GraphError if the rules of the IR forbid the op."""
        d = CaseBuilder(self.dtype)
        made = self.make(d)
        for i, value in enumerate(made if isinstance(made, tuple) else (made,)):
            inputs = {v.name for v in d.b.inputs}
            d.b.output("cache" if "cache" in inputs else f"y{i}", value)
        # The sizes of all dims must be seen at the inputs.
        shown = {str(dim) for value in d.b.inputs for dim in value.type.shape}
        used = {name for value in (*d.b.inputs, *d.b.outputs.values()) for name in value.type.symbols}
        if not used <= shown:
            d.b.output("same", d.b.input("shown", DType.i32, B, S))
        return d.b.build(), d


Row = tuple[str, str, Make]
"""The kind, the label and the maker of a case, whatever its element type."""

SHAPES: Sequence[Shape] = (
    (), (1,), (6,), (0,), (S,), (2, 3), (1, 1), (0, 3), (3, 0), (B, 8), (B, S), (2, 3, 4), (B, S, 8), (B, 0, 8),
    (2, 1, 3, 4), (B, 2, S, 8), (2, 1, 3, 2, 2), (B, 2, 1, S, 4), (1, 2, 1, 3, 1, 2),
    (2, 1, 2, 1, 2, 1, 2, 2), (1, 2, 1, 2, 1, 2, 1, 2, 2),
)  # fmt: skip


def unary(kind: str, shape: Shape, /, **attrs: Any) -> Make:
    """An op of one operand."""
    return lambda d: getattr(d.b, kind)(d.x(*shape), **attrs)


def binary(kind: str, a: Shape, b: Shape, how: str = INPUT, /, **attrs: Any) -> Make:
    """An op of two operands; `how` is for the second."""
    return lambda d: getattr(d.b, kind)(d.x(*a), d.x(*b, how=how), **attrs)


def dims(*shapes: Shape) -> str:
    """Shapes as they stand in labels."""
    return " ".join(map(shape_text, shapes))
