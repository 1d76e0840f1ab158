"""What a pattern has matched, or why it has not; see `compiler.ir.patterns`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from compiler.errors import GraphError
from compiler.ir.op import Op, Value
from compiler.suggest import did_you_mean

T = TypeVar("T")


class MatchSource(Protocol):
    """What patterns ask about values; a `RewriteBuilder` answers."""

    def producer(self, value: Value, /) -> Op | None:
        """The op behind a value; None for an input."""

    def is_constant(self, value: Value, /) -> bool:
        """Whether a value depends on no input."""


@dataclass(frozen=True)
class Match:
    """What a pattern has matched. `match["v"]` is the value bound to `v`.

    Attributes:
        root: the op at the root.
        values: the bound values; for `.bind` on an op, the result by which the pattern reached it.
        ops: the ops bound by `.bind`.
        rests: the operands bound by `P.rest`.
        matched: every op that took part, root first.
    """

    root: Op
    values: Mapping[str, Value] = field(default_factory=dict)
    ops: Mapping[str, Op] = field(default_factory=dict)
    rests: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    matched: tuple[Op, ...] = ()

    def __getitem__(self, name: str) -> Value:
        """The value bound to `name`; GraphError if there is none."""
        return _bound(self.values, name)

    def get(self, name: str) -> Value | None:
        """The value bound to `name`, or None if an optional part that binds it was absent."""
        return self.values.get(name)

    def op(self, name: str) -> Op:
        """The op that `.bind(name)` captured; GraphError if there is none."""
        return _bound(self.ops, name)

    def attr(self, name: str, of: str | None = None) -> Any:
        """An attribute of the root, or of the op that `.bind(of)` captured."""
        return (self.root if of is None else self.op(of)).attrs[name]

    def rest(self, name: str) -> tuple[Value, ...]:
        """The operands that `P.rest(name)` took; GraphError if there are none of that name."""
        return _bound(self.rests, name)


def _bound(names: Mapping[str, T], name: str) -> T:
    try:
        return names[name]
    except KeyError:
        raise GraphError(f"the match binds no {name!r}{did_you_mean(name, names)}") from None


class Miss(NamedTuple):
    """Why a pattern did not match.

    Attributes:
        depth: how many ops fitted at most, the root included.
        reason: what the next one should have been, and what it is.
        close: whether it is of the right kind, and otherwise not as it should be.
    """

    depth: int
    reason: str
    close: bool = False


class State(NamedTuple):
    """The bindings on one way through a pattern; never changed, because another way may start from it."""

    values: dict[str, Value]
    ops: dict[str, Op]
    rests: dict[str, tuple[Value, ...]]
    matched: tuple[Op, ...]


class Search:
    """One attempt at a match. It remembers the deepest point at which it failed."""

    def __init__(self, root: Op, source: MatchSource) -> None:
        self.root = root
        self.is_constant = source.is_constant
        self._producer = source.producer
        self.deepest = Miss(-1, "")

    def producer(self, value: Value) -> Op | None:
        """The op behind a value. The root itself is being visited, and may not be in the graph yet."""
        return self.root if value is self.root.results[0] else self._producer(value)

    def miss(self, state: State, reason: str, *, close: bool = True) -> None:
        """Record a failure; of those that are as deep, the first counts."""
        if len(state.matched) > self.deepest.depth:
            self.deepest = Miss(len(state.matched), reason, close)
