"""How the values of a graph of packed steps are matrices, and what the rules ask about a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass

from compiler.ir.analysis import packed_weights, stored_values
from compiler.ir.dims import Dim
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.step import R, T
from compiler.ir.types import TensorType
from runtime.executors.cpu.program import Size

_ROWS: Mapping[Dim, Size] = {T: Size.TOKENS, R: Size.WANTED}


FLOATS = (DType.f32, DType.f16, DType.bf16)
"""What is held as float32 between ops."""


@dataclass(frozen=True)
class Form:
    """How a value is a matrix: a row for each token, the other axes flattened in their order.

    Attributes:
        size: what there is a row for each of; `ONE` if the value has no axis of tokens.
        axis: the axis of the tokens; None if there is none.
        others: the other dims, in their order.
    """

    size: Size
    axis: int | None
    others: tuple[int, ...]

    @property
    def columns(self) -> int:
        """How many elements a row has."""
        return math.prod(self.others)

    @property
    def outer(self) -> int:
        """How many elements there are along the axes before that of the tokens."""
        return math.prod(self.others[: self.axis])

    @property
    def last(self) -> int:
        """The size of the last axis, which is not that of the tokens."""
        return self.others[-1]

    def ends_with_row(self) -> bool:
        """Whether the last axis is one of a row, not that of the tokens."""
        return bool(self.others) and self.axis != len(self.others)


def form_of(type_: TensorType) -> Form | None:
    """How a value of a type is a matrix; None if it has symbolic dims beside one axis of tokens."""
    axes = [axis for axis, dim in enumerate(type_.shape) if not isinstance(dim, int)]
    if len(axes) > 1 or any(type_.shape[axis] not in _ROWS for axis in axes):
        return None
    others = tuple(dim for dim in type_.shape if isinstance(dim, int))
    if not axes:
        return Form(Size.ONE, None, others)
    return Form(_ROWS[type_.shape[axes[0]]], axes[0], others)


class Facts:
    """What rules ask about a graph.

    Attributes:
        graph: the graph.
        constant: the names of the values that the engine stores.
        packed: the ops that dequantize what the engine stores, by the name of the result.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constant: Set[str] = stored_values(graph)
        self.packed: Mapping[str, Op] = packed_weights(graph)
        self._outputs = {value.name for value in graph.outputs.values()}

    def maker(self, value: Value, *kinds: str) -> Op | None:
        """The op of one of these kinds that makes a value; None if there is no such op."""
        op = self.graph.producers.get(value.name)
        return op if op is not None and op.kind.name in kinds else None

    def users(self, value: Value) -> tuple[Op, ...]:
        """The ops that use a value."""
        return self.graph.users.get(value.name, ())

    def is_output(self, value: Value) -> bool:
        """Whether the graph gives a value."""
        return value.name in self._outputs

    def is_constant(self, *values: Value) -> bool:
        """Whether the engine stores all of these values."""
        return all(value.name in self.constant for value in values)


class UnsuitedError(Exception):
    """Why no kernel computes an op, as the rest of a sentence."""


def the_form(value: Value) -> Form:
    """The form of a value; UnsuitedError if it is no matrix."""
    form = form_of(value.type)
    if form is None:
        raise UnsuitedError(f"%{value.name} {value.type} has other symbolic dims than an axis of tokens")
    return form


def require(condition: bool, why: str) -> None:
    """UnsuitedError, saying why, unless a condition holds."""
    if not condition:
        raise UnsuitedError(why)


def require_floats(*values: Value) -> None:
    """UnsuitedError unless values are held as float32."""
    for value in values:
        require(value.type.dtype in FLOATS, f"%{value.name} is {value.type.dtype}")
