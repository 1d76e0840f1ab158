"""Values, operations, and the kinds of operation.

A kind of operation is one typed Python function under `@op`: its positional parameters are the operands (types of
tensors), its keyword-only parameters are the attributes, its body checks them and returns the types of the results,
and its docstring says what the operation means. What it computes (interpreter) and how it is lowered (targets) live
in tables elsewhere.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, get_type_hints

from compiler.errors import GraphError, PluginError
from compiler.ir.dims import Dim
from compiler.ir.dtypes import DType
from compiler.ir.frozen import EMPTY, FrozenDict
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType
from compiler.plugins import Registry, blame, broken_hint, place_of
from compiler.suggest import did_you_mean

Attr = int | float | bool | str | DType | Dim | TensorRef | tuple["Attr", ...]
ResultTypes = TensorType | tuple[TensorType, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in a graph: an input, or a result of one op. Its name is unique in the graph.

    A name is a path such as `layers.0.attn.q`; the part before the last dot is the value's scope.
    """

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an op comes from: the checkpoint module it was lifted from, and the passes that made or changed it."""

    module: str = ""
    passes: tuple[str, ...] = ()

    def touched_by(self, pass_name: str) -> Origin:
        """The same origin, with `pass_name` as the latest pass."""
        return _touched(self, pass_name)

    def __str__(self) -> str:
        by = f" (changed by {', '.join(self.passes)})" if self.passes else ""
        return (self.module or "the graph") + by


@lru_cache(maxsize=64)  # consecutive ops come from the same module
def _touched(origin: Origin, pass_name: str) -> Origin:
    if origin.passes[-1:] == (pass_name,):
        return origin
    return Origin(origin.module, (*origin.passes, pass_name))


NO_ORIGIN = Origin()


@dataclass(frozen=True, eq=False)
class OpKind:
    """A kind of operation, made by `@op`.

    Attributes:
        name: spelling in the text form.
        rule: the function that checks operands and attributes and returns the types of the results.
        operands: names of the positional parameters.
        required: how many operands there are at least; the others may be left out from the end.
        variadic: whether further operands may follow.
        attributes: name and declared type of each attribute, in order.
        defaults: values of the attributes that may be left out.
    """

    name: str
    rule: Callable[..., ResultTypes]
    operands: tuple[str, ...]
    required: int
    variadic: bool
    attributes: Mapping[str, Any]
    defaults: Mapping[str, Attr]
    _types: dict[Any, tuple[TensorType, ...]] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return self.name

    @property
    def doc(self) -> str:
        """What the operation means."""
        return inspect.getdoc(self.rule) or ""

    def attrs(self, given: Mapping[str, Attr]) -> FrozenDict[str, Attr]:
        """The attributes in the order of the schema with defaults filled in; GraphError for unknown or missing ones."""
        if not self.attributes and not given:
            return EMPTY
        for name in given:
            if name not in self.attributes:
                known = ", ".join(self.attributes) or "none"
                raise GraphError(f"{self.name} has no attribute {name!r}; it has: {known}")
        values: dict[str, Attr] = {}
        for name in self.attributes:
            if name in given:
                values[name] = _normal(given[name])
            elif name in self.defaults:
                values[name] = self.defaults[name]
            else:
                raise GraphError(f"{self.name} needs the attribute {name!r}")
        return FrozenDict(values)

    def infer(self, operands: tuple[TensorType, ...], attrs: FrozenDict[str, Attr]) -> tuple[TensorType, ...]:
        """Types of the results; GraphError, naming the kind, if an operand or attribute breaks the rule."""
        if not operands:
            return self._infer(operands, attrs)  # nearly every constant is another one
        key = (operands, attrs)
        try:
            return self._types[key]
        except KeyError:
            types = self._infer(operands, attrs)
        if len(self._types) >= _MEMO_LIMIT:
            self._types.clear()
        self._types[key] = types
        return types

    def _infer(self, operands: tuple[TensorType, ...], attrs: FrozenDict[str, Attr]) -> tuple[TensorType, ...]:
        count = len(operands)
        if count < self.required or (count > len(self.operands) and not self.variadic):
            wanted = ", ".join(self.operands) + (", ..." if self.variadic else "")
            raise GraphError(f"{self.name} takes ({wanted}) but was given {count} operands")
        try:
            results = self.rule(*operands, **attrs)
        except GraphError as error:
            given = ", ".join(map(str, operands))
            raise GraphError(f"{self.name}({given}): {error.message}", hint=error.hint) from None
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told whose it is
            blame(error, self.rule, f"the type rule of {self.name}({', '.join(map(str, operands))})")
        types = results if isinstance(results, tuple) else (results,)
        if not all(isinstance(type_, TensorType) for type_ in types):
            raise PluginError(
                f"the type rule of {self.name} returned {results!r} ({place_of(self.rule)})",
                hint="it returns the type of the result, or a tuple of types",
            )
        return types


def _normal(value: Any) -> Attr:
    """Sequences as tuples, and every NaN as the same object, so that equal attributes compare equal."""
    if isinstance(value, (list, tuple)):
        return tuple([_normal(item) for item in value])
    return math.nan if value != value else value


# Type rules are pure, and a model repeats few distinct types; the bound only guards against unusual use.
_MEMO_LIMIT = 4096

OPS = Registry[OpKind]("the op {!r} exists already", GraphError)
"""All kinds of operation."""


def op(rule: Callable[..., ResultTypes]) -> OpKind:
    """Decorator: register the function as a kind of operation under its own name.

    Raises:
        GraphError: if the name is taken.
    """
    name = rule.__name__.rstrip("_")
    hints = get_type_hints(rule)
    parameters = inspect.signature(rule).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    kind = OpKind(
        name=name,
        rule=rule,
        operands=tuple(p.name for p in positional),
        required=sum(p.default is p.empty for p in positional),
        variadic=any(p.kind is p.VAR_POSITIONAL for p in parameters),
        attributes={p.name: hints[p.name] for p in keyword},
        defaults={p.name: p.default for p in keyword if p.default is not p.empty},
    )
    OPS.add(name, kind, rule)
    return kind


def op_kind(name: str) -> OpKind:
    """The kind of that name; GraphError with a suggestion if there is none."""
    kind = OPS.find(name)
    if kind is None:
        raise GraphError(
            f"there is no op {name!r}{did_you_mean(name, OPS)}",
            hint=broken_hint(
                "an op of your own must be imported before a graph uses it (on the command line: --plugin FILE.py)"
            ),
        )
    return kind


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a graph. It knows its operands, not its users; those are computed (`Graph.users`).

    Make one with `make_op`, which infers the types of the results.
    """

    kind: OpKind
    operands: tuple[Value, ...]
    attrs: FrozenDict[str, Any]
    results: tuple[Value, ...]
    origin: Origin = NO_ORIGIN

    @property
    def result(self) -> Value:
        """The only result; GraphError if there are several."""
        if len(self.results) != 1:
            raise GraphError(f"{self.kind.name} %{self.results[0].name} has {len(self.results)} results, not one")
        return self.results[0]

    @property
    def name(self) -> str:
        """The name of the first result, by which messages call the op."""
        return self.results[0].name

    @property
    def scope(self) -> str:
        """The scope of the first result: `layers.0.attn` for `layers.0.attn.q`."""
        return self.results[0].name.rpartition(".")[0]


def make_op(
    kind: OpKind,
    operands: Iterable[Value],
    attrs: Mapping[str, Attr],
    names: tuple[str, ...],
    origin: Origin = NO_ORIGIN,
) -> Op:
    """An op whose results carry `names` and the types that the kind's rule gives.

    Raises:
        GraphError: if the operands or attributes break the rule, or the number of names is not that of the results.
    """
    operands = tuple(operands)
    complete = kind.attrs(attrs)
    types = kind.infer(tuple([value.type for value in operands]), complete)
    if len(types) != len(names):
        raise GraphError(f"{kind.name} has {len(types)} results but {len(names)} names: {', '.join(names)}")
    return Op(kind, operands, complete, tuple([Value(n, t) for n, t in zip(names, types, strict=True)]), origin)


def with_operands(op: Op, operands: tuple[Value, ...]) -> Op:
    """`op` on other operands, its results' types inferred anew; `op` itself if nothing changes."""
    return op if operands == op.operands else with_types(Op(op.kind, operands, op.attrs, op.results, op.origin))


def with_types(op: Op) -> Op:
    """`op` with its results' types inferred anew; `op` itself if they are right."""
    types = op.kind.infer(tuple([value.type for value in op.operands]), op.attrs)
    results = tuple(
        [old if old.type == new else Value(old.name, new) for old, new in zip(op.results, types, strict=True)]
    )
    return op if results == op.results else Op(op.kind, op.operands, op.attrs, results, op.origin)
