"""Patterns over producers: what ops a value must be made by.

    P.matmul(P.softmax(P.any("scores")), "v", transpose_b=False)

A call names a kind of op. Its operands are patterns or strings; a string matches any value and binds it, and the same
string again must meet the same value. Keyword arguments constrain attributes: a value that the attribute equals, or a
function of it that must hold. A kind without operands (`P.cast()`) leaves the operands open. `add`, `mul` and
`logical_and` match in either order. An op pattern lists all operands that the op has; `P.optional(...)` may be absent,
`P.rest("parts")` takes all that follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import compiler.ir.ops  # noqa: F401 - registers the ops
from compiler.errors import GraphError
from compiler.ir.matching import Match, MatchSource, Miss, Search, State
from compiler.ir.op import Op, OpKind, Value, op_kind

COMMUTATIVE = frozenset({"add", "mul", "logical_and"})


class Pattern(ABC):
    """A condition on how a value is made. Immutable; parts can be shared between patterns."""

    @property
    @abstractmethod
    def kinds(self) -> frozenset[str]:
        """The kinds of op that the outermost op can be; empty if any value may match."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many ops a whole match has at most."""

    @abstractmethod
    def walk(self, value: Value, state: State, search: Search) -> Iterator[State]:
        """The ways in which `value` matches, given what is bound already."""

    def bind(self, name: str) -> Pattern:
        """The same pattern; the match knows the value, and the op that makes it, as `name`."""
        return _Bind(self, name)

    def match(self, op: Op, source: MatchSource) -> Match | Miss:
        """Match the pattern with `op` as its root."""
        search = Search(op, source)
        for state in self.walk(op.results[0], State({}, {}, {}, ()), search):
            return Match(op, *state)
        return search.deepest


@dataclass(frozen=True)
class _Any(Pattern):
    name: str | None = None
    constant: bool = False
    kinds = frozenset()
    size = 0

    def walk(self, value: Value, state: State, search: Search) -> Iterator[State]:
        if self.constant and not search.is_constant(value):
            search.miss(state, f"%{value.name} is not constant")
        elif self.name is None:
            yield state
        else:
            yield from _bind_value(self.name, value, state, search)

    def __str__(self) -> str:
        return f"const({self.name or ''})" if self.constant else self.name or "any()"


@dataclass(frozen=True)
class _Bind(Pattern):
    inner: Pattern
    name: str

    @property
    def kinds(self) -> frozenset[str]:
        return self.inner.kinds

    @property
    def size(self) -> int:
        return self.inner.size

    def walk(self, value: Value, state: State, search: Search) -> Iterator[State]:
        producer = search.producer(value)
        for found in self.inner.walk(value, state, search):
            for bound in _bind_value(self.name, value, found, search):
                yield bound if producer is None else bound._replace(ops={**bound.ops, self.name: producer})

    def __str__(self) -> str:
        return str(self.inner)


def _bind_value(name: str, value: Value, state: State, search: Search) -> Iterator[State]:
    known = state.values.get(name)
    if known is None:
        yield state._replace(values={**state.values, name: value})
    elif known == value:
        yield state
    else:
        search.miss(state, f"{name!r} is %{known.name} already, not %{value.name}")


@dataclass(frozen=True)
class _OneOf(Pattern):
    choices: tuple[Pattern, ...]

    @property
    def kinds(self) -> frozenset[str]:
        kinds = [choice.kinds for choice in self.choices]
        return frozenset().union(*kinds) if all(kinds) else frozenset()

    @property
    def size(self) -> int:
        return max(choice.size for choice in self.choices)

    def walk(self, value: Value, state: State, search: Search) -> Iterator[State]:
        for choice in self.choices:
            yield from choice.walk(value, state, search)

    def __str__(self) -> str:
        return " or ".join(map(str, self.choices))


class _Maybe(_OneOf):
    """An op around a pattern, or the pattern alone."""

    def bind(self, name: str) -> Pattern:
        """Bind the op around, if it is there."""
        return _Maybe((self.choices[0].bind(name), *self.choices[1:]))


@dataclass(frozen=True)
class _Operand:
    """An operand that a pattern lists: one that may be absent, or (without a pattern) all that follow."""

    pattern: Pattern | None
    name: str | None = None


@dataclass(frozen=True)
class _OpPattern(Pattern):
    kind: OpKind
    operands: tuple[Pattern, ...]  # those that must be there, then the optional ones
    required: int
    rest: _Operand | None
    attrs: Mapping[str, Any]

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset({self.kind.name})

    @property
    def size(self) -> int:
        return 1 + sum(operand.size for operand in self.operands)

    def walk(self, value: Value, state: State, search: Search) -> Iterator[State]:
        op = search.producer(value)
        if op is None or op.kind is not self.kind:
            found = f"{op.kind.name} %{value.name}" if op else f"the input %{value.name}"
            search.miss(state, f"expected {self.kind.name}, found {found}", close=False)
        elif reason := self._refused(op):
            search.miss(state, f"{op.kind.name} %{op.name} {reason}")
        else:
            state = state._replace(matched=(*state.matched, op))
            operands = op.operands
            yield from self._operands(operands, state, search)
            if len(operands) == len(self.operands) == 2 and self.kind.name in COMMUTATIVE:
                yield from self._operands(operands[::-1], state, search)

    def _refused(self, op: Op) -> str:
        for name, wanted in self.attrs.items():
            value = op.attrs[name]
            if not (wanted(value) if callable(wanted) else value == wanted):
                return f"has {name}={value}" + ("" if callable(wanted) else f", not {wanted}")
        count = len(op.operands)
        if count < self.required or (count > len(self.operands) and self.rest is None):
            return f"has {count} operands, not {len(self.operands)}"
        return ""

    def _operands(self, operands: tuple[Value, ...], state: State, search: Search, at: int = 0) -> Iterator[State]:
        if at < min(len(operands), len(self.operands)):
            for found in self.operands[at].walk(operands[at], state, search):
                yield from self._operands(operands, found, search, at + 1)
        elif self.rest is None or self.rest.name is None:
            yield state
        else:
            yield state._replace(rests={**state.rests, self.rest.name: operands[at:]})

    def __str__(self) -> str:
        shown = [*map(str, self.operands), *(f"{name}={value}" for name, value in self.attrs.items())]
        return f"{self.kind.name}({', '.join(shown)})"


class _Patterns:
    """The notation: `P.softmax(...)` for every kind of op, and the functions below."""

    def __getattr__(self, kind: str) -> Callable[..., Pattern]:
        if kind.startswith("_"):
            raise AttributeError(kind)
        return partial(self.op, kind)

    def op(self, kind: str, *operands: Pattern | str | _Operand, **attrs: Any) -> Pattern:
        """An op of that kind; `P.op("const")` for a kind whose name this class uses otherwise.

        Raises:
            GraphError: if the kind, an attribute or the number of operands does not exist.
        """
        schema = op_kind(kind)
        for name in attrs:
            if name not in schema.attributes:
                raise GraphError(f"a pattern asks for the attribute {name!r}, which {kind} does not have")
        return _OpPattern(schema, *_operands(schema, operands), attrs)

    def any(self, name: str | None = None) -> Pattern:
        """Any value; bound, if `name` is given."""
        return _Any(name)

    def const(self, name: str | None = None) -> Pattern:
        """Any value that depends on no input, however it is made."""
        return _Any(name, constant=True)

    def one_of(self, *choices: Pattern | str) -> Pattern:
        """The first of the patterns that lets the whole match."""
        return _OneOf(tuple(map(_pattern, choices)))

    def maybe(self, kind: str, inner: Pattern | str, *operands: Pattern | str, **attrs: Any) -> Pattern:
        """`inner`, or an op of that kind with `inner` as its first operand; `.bind` then captures that op."""
        inner = _pattern(inner)
        return _Maybe((self.op(kind, inner, *operands, **attrs), inner))

    def optional(self, operand: Pattern | str) -> Any:
        """An operand that may be absent."""
        return _Operand(_pattern(operand))

    def rest(self, name: str | None = None) -> Any:
        """All operands that follow, even none; `match.rest(name)` are they."""
        return _Operand(None, name)


P = _Patterns()


def _pattern(operand: object) -> Pattern:
    if isinstance(operand, Pattern):
        return operand
    if isinstance(operand, str):
        return _Any(operand)
    raise GraphError(f"a pattern's operand is a pattern or a name to bind, not {operand!r}")


def _operands(kind: OpKind, given: tuple[Any, ...]) -> tuple[tuple[Pattern, ...], int, _Operand | None]:
    """The operand patterns, how many of them must be there, and what takes the rest."""
    if not given:
        return (), 0, _Operand(None)
    rest = given[-1] if isinstance(given[-1], _Operand) and given[-1].pattern is None else None
    listed = given if rest is None else given[:-1]
    optional = [isinstance(operand, _Operand) for operand in listed]
    patterns = tuple([_pattern(o.pattern if isinstance(o, _Operand) else o) for o in listed])
    required = len(listed) - sum(optional)
    if any(optional[:required]):
        raise GraphError(f"a pattern of {kind.name} has an optional operand before one that must be there")
    if len(listed) > len(kind.operands) and not kind.variadic:
        raise GraphError(f"a pattern of {kind.name} lists {len(listed)} operands; it has {', '.join(kind.operands)}")
    if len(listed) < kind.required and rest is None:
        raise GraphError(f"a pattern of {kind.name} lists {len(listed)} operands; it has {', '.join(kind.operands)}")
    return patterns, required, rest
