"""Which ops of a graph run in one call, and of the rest why not. Asks the graph alone, neither weights nor kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import runtime.executors.cpu.rules  # noqa: F401 - registers the rules
from compiler.ir.graph import Graph
from runtime.executors.cpu.plans import Plans
from runtime.executors.torch.plain_ops import PlainOps, plain_ops


@dataclass(frozen=True)
class Call:
    """A program of kernels.

    Attributes:
        ops: how many operations of each kind it computes.
    """

    ops: dict[str, int]

    def __str__(self) -> str:
        return f"one call: {', '.join(f'{count} {kind}' for kind, count in self.ops.items())}"


@dataclass(frozen=True)
class Explanation:
    """How the executor runs a graph.

    Attributes:
        calls: the programs of kernels, in order.
        left: what runs by torch's rules.
    """

    calls: tuple[Call, ...]
    left: tuple[PlainOps, ...]

    def lines(self) -> Iterator[str]:
        """The calls, those that are alike in one line; then what is left, a line for each kind and reason."""
        for call, count in Counter(map(str, self.calls)).items():
            yield f"{count} x {call}" if count > 1 else call
        yield from (f"by torch: {each} ({each.some}): {each.why}" for each in self.left)

    def to_json(self) -> dict[str, Any]:
        """All of it; the keys are in docs/cli.md."""
        return {
            "calls": [call.ops for call in self.calls],
            "by_torch": [each.to_json() for each in self.left],
        }


def explain(graph: Graph) -> Explanation:
    """How the executor runs a graph of packed steps."""
    plans = Plans(graph)
    calls = tuple(Call(dict(Counter(op.kind.name for op in ops))) for ops in plans.segments())
    left = plain_ops((op, plans.reasons[op.name]) for op in plans.running if op.name in plans.reasons)
    return Explanation(calls, left)
