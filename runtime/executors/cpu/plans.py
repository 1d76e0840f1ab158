"""How each op of a graph becomes part of a program of kernels, or why it does not: a table of rules by kind of op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from runtime.executors.cpu.forms import Facts, UnsuitedError
from runtime.executors.torch.lowering import running_ops

if TYPE_CHECKING:
    from runtime.executors.cpu.emission import Emission


@dataclass(frozen=True)
class View:
    """A value that is another one, or some columns of it.

    Attributes:
        of: the other one.
        start: the first of the columns.
        columns: how many there are; None for all.
    """

    of: Value
    start: int = 0
    columns: int | None = None


@dataclass(frozen=True)
class Kernels:
    """An op that kernels compute.

    Attributes:
        emit: adds them to a program.
    """

    emit: Callable[[Emission], None]


@dataclass(frozen=True)
class Views:
    """An op that computes nothing: its results are views, in their order."""

    views: tuple[View, ...]


@dataclass(frozen=True)
class Update:
    """An op that replaces a pool, its first operand, in place.

    Attributes:
        emit: adds kernels to a program.
    """

    emit: Callable[[Emission], None]


@dataclass(frozen=True)
class Left:
    """An op that its users compute, all of which kernels compute."""


Plan = Kernels | Views | Update | Left
Rule = Callable[["Plans", Op], Plan]
RULES: dict[str, Rule] = {}
"""The rules, by the kind of op. A rule raises UnsuitedError if no kernel computes the op."""


def native_rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: the function plans ops of these kinds."""

    def register(rule: Rule) -> Rule:
        for kind in kinds:
            assert kind not in RULES
            RULES[kind] = rule
        return rule

    return register


NO_KERNEL = "there is no kernel for such operations"


class Plans(Facts):
    """The plans of a graph's ops.

    Attributes:
        chosen: the plan of each op that kernels compute, by the op's name, in the order of the graph.
        reasons: why no kernel computes the others.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._known: dict[str, Plan | UnsuitedError] = {}
        self.running = [*running_ops(graph)]
        self.chosen: dict[str, Plan] = {}
        self.reasons: dict[str, str] = {}
        for op in self.running:
            try:
                self.chosen[op.name] = self.plan(op)
            except UnsuitedError as why:
                self.reasons[op.name] = str(why)
        for op in reversed(self.running):
            used = any(user.name in self.chosen for value in op.results for user in self.users(value))
            if isinstance(self.chosen.get(op.name), Views) and not used:
                del self.chosen[op.name]
                self.reasons[op.name] = "it is a view, which costs nothing"

    def plan(self, op: Op) -> Plan:
        """The plan of an op; UnsuitedError if no kernel computes it."""
        known = self._known.get(op.name)
        if known is None:
            try:
                known = self._planned(op)
            except UnsuitedError as why:
                known = why
            self._known[op.name] = known
        if isinstance(known, UnsuitedError):
            raise known
        return known

    def is_native(self, op: Op) -> bool:
        """Whether kernels compute an op."""
        try:
            self.plan(op)
        except UnsuitedError:
            return False
        return True

    def is_left(self, op: Op) -> bool:
        """Whether the users of an op compute it."""
        return isinstance(self._known.get(op.name), Left)

    def _planned(self, op: Op) -> Plan:
        rule = RULES.get(op.kind.name)
        if rule is None:
            raise UnsuitedError(NO_KERNEL)
        return rule(self, op)

    def segments(self) -> list[tuple[Op, ...]]:
        """The ops that kernels compute, in runs that need nothing else in between; each is as long as can be."""
        waiting = self.running
        known = {value.name for value in self.graph.inputs} | self.constant | self.packed.keys()
        found: list[tuple[Op, ...]] = []
        while waiting:
            before = len(waiting)
            segment, waiting = self._ready(waiting, known)
            if segment:
                found.append(tuple(segment))
            waiting = self._without_ready(waiting, known)
            assert len(waiting) < before, "the graph is in no order"
        return found

    def _ready(self, waiting: list[Op], known: set[str]) -> tuple[list[Op], list[Op]]:
        """The ops that kernels can compute now, one after the other; and the rest."""
        segment: list[Op] = []
        left: dict[str, Op] = {}
        ready = set[str]()
        for op in waiting:
            plan = self.chosen.get(op.name)
            names = [value.name for value in op.operands]
            if plan is None or any(name not in known and name not in ready and name not in left for name in names):
                continue
            if isinstance(plan, Left):
                left[op.name] = op
                continue
            for name in names:
                if name in left:
                    segment.append(left.pop(name))
                    ready.add(name)
            segment.append(op)
            ready.update(value.name for value in op.results)
        known |= ready
        done = {op.name for op in segment}
        return segment, [op for op in waiting if op.name not in done]

    def _without_ready(self, waiting: list[Op], known: set[str]) -> list[Op]:
        """What is left once all ops that no kernel computes, and that can be computed now, have been."""
        rest = []
        for op in waiting:
            if op.name in self.chosen or any(value.name not in known for value in op.operands):
                rest.append(op)
            else:
                known.update(value.name for value in op.results)
        return rest
