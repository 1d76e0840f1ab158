"""Graphs: inputs, ops in order, and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from compiler.errors import GraphError
from compiler.ir.frozen import EMPTY, FrozenDict
from compiler.ir.op import Op, OpKind, Value
from compiler.suggest import did_you_mean

if TYPE_CHECKING:
    import networkx

Fact = str | int | float | bool


class DimRange(NamedTuple):
    """The sizes that a symbolic dim can take: smallest, typical (what to optimize for), largest."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class Graph:
    """A function from inputs to outputs, in static single assignment form. Immutable: a pass returns a new one.

    An output that carries the name of an input is that input's next state (a cache): executors update it in place.

    Attributes:
        name: the model's family, or any word.
        inputs: the parameters.
        ops: in an order in which every value is defined before it is used.
        outputs: values by role: `logits`, and the next state of each cache.
        dims: the range of each symbolic dim.
        facts: what is known about the model beyond the computation (family, vocabulary size, context length ...).
        root: the folder that tensor references are relative to.
    """

    name: str
    inputs: tuple[Value, ...]
    ops: tuple[Op, ...]
    outputs: FrozenDict[str, Value]
    dims: FrozenDict[str, DimRange] = field(default=EMPTY)
    facts: FrozenDict[str, Fact] = field(default=EMPTY)
    root: str = "."

    def __hash__(self) -> int:
        return hash((self.name, self.inputs, self.outputs, len(self.ops)))

    def with_ops(self, ops: tuple[Op, ...], outputs: Mapping[str, Value]) -> Graph:
        """A graph of the same name, inputs, dims and facts with other ops and outputs."""
        return replace(self, ops=ops, outputs=FrozenDict(outputs))

    def with_facts(self, **facts: Fact) -> Graph:
        """The graph with these facts added or changed."""
        return replace(self, facts=FrozenDict({**self.facts, **facts}))

    @cached_property
    def producers(self) -> Mapping[str, Op]:
        """The op that defines each value, by the value's name. Inputs are absent."""
        return {value.name: op for op in self.ops for value in op.results}

    @cached_property
    def users(self) -> Mapping[str, tuple[Op, ...]]:
        """The ops that use each value, by the value's name; a value without users is absent."""
        users: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in {value.name for value in op.operands}:
                users.setdefault(name, []).append(op)
        return {name: tuple(ops) for name, ops in users.items()}

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """Every value by name: inputs, then results in order."""
        return {v.name: v for v in (*self.inputs, *(value for op in self.ops for value in op.results))}

    def value(self, name: str) -> Value:
        """The value of that name; GraphError with a suggestion if there is none."""
        try:
            return self.values[name]
        except KeyError:
            raise GraphError(f"the graph has no value %{name}{did_you_mean(name, self.values)}") from None

    def find(self, kind: str | OpKind) -> Iterator[Op]:
        """The ops of that kind, or of the kind of that name, in order."""
        name = kind if isinstance(kind, str) else kind.name
        return (op for op in self.ops if op.kind.name == name)

    def states(self) -> Mapping[str, tuple[Value, Value]]:
        """The caches: input name → (input, next state)."""
        return {v.name: (v, self.outputs[v.name]) for v in self.inputs if v.name in self.outputs}

    def to_networkx(self) -> networkx.DiGraph[str]:
        """The dataflow as a networkx digraph: see `compiler.ir.networkx_bridge.to_networkx`."""
        from compiler.ir.networkx_bridge import to_networkx

        return to_networkx(self)

    def _repr_html_(self) -> str:
        """The picture that notebooks show: see `compiler.ir.drawing.notebook.notebook_html`."""
        from compiler.ir.drawing.notebook import notebook_html

        return notebook_html(self)
