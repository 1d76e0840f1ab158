"""Whether every op of an engine has what it takes to run, found before any weight is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import runtime.executors.torch.rules  # noqa: F401 - both register llmc's own
from compiler.errors import TargetError
from compiler.ir.analysis import constant_values
from compiler.ir.evaluators.core import EVALUATOR_DECORATOR, EVALUATORS
from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.plugins import broken_hint
from runtime.executors.torch.lowering import RULE_DECORATOR, RULES, running_ops


class _Lack(NamedTuple):
    """What an op lacks: in words, and what registers it."""

    op: Op
    parts: tuple[str, ...]
    decorators: tuple[str, ...]

    def __str__(self) -> str:
        op = self.op
        return f"{op.kind.name} %{op.name} from {op.origin} has no {' and no '.join(self.parts)}"


def require_parts(graph: Graph, ranks: Iterable[Graph]) -> None:
    """See that each op that runs has a rule of the torch executor, and each an evaluator, those of weights included.

    Every engine has the files of the torch target, whatever else it is built for, and is verified by the interpreter.

    Args:
        graph: the graph after all passes.
        ranks: the graphs of ranks, one of each stage at least, with their weights stored.

    Raises:
        TargetError: naming an op of each kind that lacks something, where it comes from, and what to register.
    """
    lacks = [*_of_weights(graph), *(lack for rank in ranks for lack in _of_steps(rank))]
    first = list({lack.op.kind.name: lack for lack in reversed(lacks)}.values())[::-1]
    if first:
        raise TargetError(
            "; ".join(map(str, first)),
            hint=broken_hint(
                f"register {', '.join(name for lack in first for name in lack.decorators)}, "
                "or rewrite it into other ops with a pass"
            ),
        )


def _of_weights(graph: Graph) -> Iterator[_Lack]:
    constant = constant_values(graph)
    for op in graph.ops:
        if op.name in constant and not _is_evaluated(op):
            yield _Lack(op, ("evaluator",), (f"@{EVALUATOR_DECORATOR}({op.kind.name!r})",))


def _of_steps(rank: Graph) -> Iterator[_Lack]:
    for op in running_ops(rank):
        kind = op.kind.name
        missing = [
            *([("evaluator", f"@{EVALUATOR_DECORATOR}({kind!r})")] if not _is_evaluated(op) else []),
            *([("rule of the torch executor", f"@{RULE_DECORATOR}({kind!r})")] if RULES.find(kind) is None else []),
        ]
        if missing:
            yield _Lack(op, *zip(*missing, strict=True))


def _is_evaluated(op: Op) -> bool:
    """Whether the interpreter knows the op: constants of files are read by itself."""
    return op.kind.name == "const" or EVALUATORS.find(op.kind.name) is not None
