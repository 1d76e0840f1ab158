"""Building graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import compiler.ir.ops  # noqa: F401 - registers the ops
from compiler.errors import GraphError
from compiler.ir.dims import Dim
from compiler.ir.dtypes import DType
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import DimRange, Fact, Graph
from compiler.ir.op import NO_ORIGIN, Op, OpKind, Origin, Value, make_op, op_kind
from compiler.ir.types import TensorType


class Builder:
    """Appends ops to a graph under construction.

    Each kind of op is a method: `b.linear(x, weight, bias, name="q")` appends a linear op and returns its value.
    Operands come first (trailing `None`s are left out), attributes by keyword. An op with several results takes
    `names=("q", "k", "v")` and returns a tuple. A name is local to the current scope; without one, the kind's name
    is used; a name that is taken gets a suffix.
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.ops: list[Op] = []
        self.outputs: dict[str, Value] = {}
        self.dims: dict[str, DimRange] = {}
        self.facts: dict[str, Fact] = {}
        self.taken: set[str] = set()
        self._suffixes: dict[str, int] = {}  # the last one used for a name
        self.prefix = ""
        self.origin = NO_ORIGIN

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        if kind.startswith("_"):
            raise AttributeError(kind)
        return partial(self.emit, op_kind(kind))

    def input(self, name: str, dtype: DType, *shape: Dim) -> Value:
        """Declare the next input."""
        if name in self.taken:
            raise GraphError(f"the input %{name} is declared twice")
        self.taken.add(name)
        self.inputs.append(Value(name, TensorType(dtype, shape)))
        return self.inputs[-1]

    def output(self, role: str, value: Value) -> None:
        """Declare an output; the role of a cache's next state is the name of its input."""
        self.outputs[role] = value

    def emit(
        self,
        kind: OpKind,
        *operands: Value | None,
        name: str | None = None,
        names: tuple[str, ...] | None = None,
        **attrs: Any,
    ) -> Any:
        """Append an op of any kind. Returns its value, or the tuple of its values if `names` were given.

        Raises:
            GraphError: if the operands or attributes break the kind's rule.
        """
        present = [value for value in operands if value is not None]
        if None in operands[: len(present)]:
            raise GraphError(f"{kind.name}: an operand is None but a later one is not")
        full = tuple([self.unique(n) for n in names or (name or kind.name,)])
        op = make_op(kind, present, attrs, full, self.origin)
        self.ops.append(op)
        return op.results if names else op.results[0]

    def unique(self, name: str) -> str:
        """`name` in the current scope, with a suffix `_2`, `_3` ... if it is taken; reserves it."""
        full = base = self.prefix + name
        while full in self.taken:
            self._suffixes[base] = self._suffixes.get(base, 1) + 1
            full = f"{base}_{self._suffixes[base]}"
        self.taken.add(full)
        return full

    @contextmanager
    def scope(self, name: str, module: str | None = None) -> Iterator[None]:
        """Ops made inside are named `name.…` within the current scope, and come from the checkpoint module `module`.

        `module` is the full path in the checkpoint; without one the enclosing scope's stays.
        """
        prefix, origin = self.prefix, self.origin
        self.prefix = f"{prefix}{name}."
        self.origin = origin if module is None else Origin(module, origin.passes)
        try:
            yield
        finally:
            self.prefix, self.origin = prefix, origin

    def build(self, root: str = ".") -> Graph:
        """The graph as built so far."""
        return Graph(
            self.name,
            tuple(self.inputs),
            tuple(self.ops),
            FrozenDict(self.outputs),
            FrozenDict(self.dims),
            FrozenDict(self.facts),
            root,
        )
