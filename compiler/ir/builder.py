"""The builder, which makes graphs op by op."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, overload

import compiler.ir.ops  # noqa: F401 - registers the ops
from compiler.errors import GraphError
from compiler.ir.dims import Dim
from compiler.ir.dtypes import DType
from compiler.ir.frozen import EMPTY, FrozenDict
from compiler.ir.graph import DimRange, Fact, Graph
from compiler.ir.op import NO_ORIGIN, OPS, Attr, Op, OpKind, Origin, Value, make_op, op_kind
from compiler.ir.op_methods import OpMethods
from compiler.ir.types import TensorType


class OpMethod(Protocol):
    """A builder's method for ops of one kind, those of plug-ins too: `Builder.op` without the kind."""

    @overload
    def __call__(self, *operands: Value | None, names: tuple[str, ...], **attrs: Any) -> tuple[Value, ...]: ...
    @overload
    def __call__(self, *operands: Value | None, name: str | None = None, names: None = None, **attrs: Any) -> Value: ...


class Builder(OpMethods):
    """Appends ops to a graph under construction.

    Each kind of op is a method: `b.linear(x, weight, bias, name="q")` appends a linear op and returns its value.
    Operands come first (trailing `None`s are left out), attributes by keyword. An op with several results takes
    `names=("q", "k", "v")` and returns a tuple. A name is local to the current scope; without one, the kind's name
    is used; a name that is taken gets a suffix.

    `OpMethods` shows the methods of llmc's own ops to type checkers and editors. Ops of plug-ins are methods as well;
    `b.op("linear", x, weight)` appends an op whose kind is in a variable, or has the name of another member.
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

    def __getattr__(self, kind: str) -> OpMethod:
        if kind.startswith("_"):
            raise AttributeError(kind)
        return _OpMethod(self.op, op_kind(kind))

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *OPS]

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

    @overload
    def op(
        self, kind: str | OpKind, *operands: Value | None, names: tuple[str, ...], **attrs: Any
    ) -> tuple[Value, ...]: ...
    @overload
    def op(
        self, kind: str | OpKind, *operands: Value | None, name: str | None = None, names: None = None, **attrs: Any
    ) -> Value: ...
    def op(
        self,
        kind: str | OpKind,
        *operands: Value | None,
        name: str | None = None,
        names: tuple[str, ...] | None = None,
        **attrs: Any,
    ) -> Value | tuple[Value, ...]:
        """Append an op of any kind, or of the kind of that name.

        Args:
            kind: the kind of op.
            operands: its operands; trailing `None`s are left out.
            name: what its result is called, in the current scope; the kind's name if there is none.
            names: what its results are called, if there are several.
            attrs: its attributes.

        Returns:
            The result, or the tuple of the results if `names` are given.

        Raises:
            GraphError: if there is no such kind, or the operands or attributes break its rule.
        """
        kind = op_kind(kind) if isinstance(kind, str) else kind
        present = [value for value in operands if value is not None]
        if None in operands[: len(present)]:
            raise GraphError(f"{kind.name}: an operand is None but a later one is not")
        results = self.emit(kind, present, attrs, names or (name or kind.name,))
        return results if names else results[0]

    def emit(
        self,
        kind: OpKind,
        operands: Iterable[Value],
        attrs: Mapping[str, Attr] = EMPTY,
        names: Iterable[str] | None = None,
    ) -> tuple[Value, ...]:
        """Append an op whose operands and attributes are at hand as collections, such as those of another op.

        Returns:
            Its results, one for each of `names`, which are local to the current scope; without `names` its only
            result, named after the kind.

        Raises:
            GraphError: if the operands or attributes break the kind's rule, or the results are not as many as `names`.
        """
        full = tuple([self.unique(name) for name in names or (kind.name,)])
        op = make_op(kind, operands, attrs, full, self.origin)
        self.ops.append(op)
        return op.results

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


class _OpMethod(partial[Any]):
    """A method of a builder that shows the docstring and the signature of its op, as `help` prints them."""

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return self._kind.doc

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._kind.rule)

    @property
    def _kind(self) -> OpKind:
        kind: OpKind = self.args[0]
        return kind
