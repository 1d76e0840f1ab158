"""Questions about a graph that fusions ask: what makes a value, who uses it, what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from compiler.ir.analysis import packed_weights, stored_values
from compiler.ir.dims import Dim
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value


def fixed(dim: Dim) -> int:
    """A dim that is no symbol."""
    assert isinstance(dim, int)
    return dim


@dataclass
class Dataflow:
    """A graph, and which of its ops are in fusions already.

    Attributes:
        graph: the graph.
        constant: the names of the values that the engine stores.
        packed: the ops that dequantize what the engine stores, by the name of the result.
        claimed: the names of the ops that are in a fusion.
        rounded: the names of the values that are handed on as 8-bit numbers with scales, which products alone take.
    """

    graph: Graph
    claimed: set[str] = field(default_factory=set)
    rounded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.constant: Set[str] = stored_values(self.graph)
        self.packed: Mapping[str, Op] = packed_weights(self.graph)
        self._outputs = {value.name for value in self.graph.outputs.values()}

    def maker(self, value: Value, *kinds: str) -> Op | None:
        """The op of one of these kinds that makes a value and is in no fusion; None if there is no such op."""
        op = self.graph.producers.get(value.name)
        return op if op is not None and op.kind.name in kinds and op.name not in self.claimed else None

    def users(self, value: Value) -> tuple[Op, ...]:
        """The ops that use a value."""
        return self.graph.users.get(value.name, ())

    def only_user(self, value: Value) -> Op | None:
        """The op that alone uses a value; None if there are more, or if the graph gives the value, too."""
        users = self.users(value)
        return users[0] if len(users) == 1 and value.name not in self._outputs else None

    def is_output(self, value: Value) -> bool:
        """Whether the graph gives a value."""
        return value.name in self._outputs

    def claim(self, ops: tuple[Op, ...]) -> tuple[Op, ...]:
        """Take ops for a fusion; returns them in the order of the graph."""
        names = {op.name for op in ops}
        self.claimed |= names
        return tuple(op for op in self.graph.ops if op.name in names)
