"""Whether every op of an engine has what it takes to be computed and to run, found before any weight is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import compiler.ir.interpreter  # noqa: F401 - registers the evaluators
from compiler.errors import TargetError
from compiler.ir.analysis import constant_values
from compiler.ir.evaluators.core import EVALUATOR_DECORATOR, EVALUATORS
from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.plugins import broken_hint


class PluginPart(NamedTuple):
    """A part of an op that plug-ins can register: what it is called, and the decorator that registers it."""

    name: str
    decorator: str


EVALUATOR = PluginPart("evaluator", EVALUATOR_DECORATOR)


class Lack(NamedTuple):
    """An op, and the parts that it lacks."""

    op: Op
    parts: tuple[PluginPart, ...]

    def __str__(self) -> str:
        op = self.op
        parts = " and no ".join(part.name for part in self.parts)
        return f"{op.kind.name} %{op.name} from {op.origin} has no {parts}"


def refuse(lacks: Iterable[Lack]) -> None:
    """TargetError, naming an op of each kind that lacks something, where it comes from, and what to register."""
    first: dict[str, Lack] = {}
    for lack in lacks:
        first.setdefault(lack.op.kind.name, lack)
    if first:
        missing = [f"@{part.decorator}({kind!r})" for kind, lack in first.items() for part in lack.parts]
        raise TargetError(
            "; ".join(map(str, first.values())),
            hint=broken_hint(f"register {', '.join(missing)}, or rewrite it into other ops with a pass"),
        )


def require_evaluators(graph: Graph) -> None:
    """TargetError if a weight is computed by an op that has no evaluator."""
    refuse(_of_weights(graph))


def is_evaluated(op: Op) -> bool:
    """Whether the interpreter knows the op: constants of files are read by itself."""
    return op.kind.name == "const" or EVALUATORS.find(op.kind.name) is not None


def _of_weights(graph: Graph) -> Iterator[Lack]:
    constant = constant_values(graph)
    return (Lack(op, (EVALUATOR,)) for op in graph.ops if op.name in constant and not is_evaluated(op))
