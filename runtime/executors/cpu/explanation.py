"""Which ops of a graph run in one call, and of the rest why not. Asks the graph alone, neither weights nor kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import runtime.executors.cpu.rules  # noqa: F401 - registers the rules
from compiler.ir.graph import Graph
from runtime.executors.cpu.plans import Plans


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
class LeftOps:
    """Operations of one kind that run by torch's rules, one after the other.

    Attributes:
        kind: the kind.
        why: why no kernel computes them, as the rest of a sentence.
        ops: their names.
    """

    kind: str
    why: str
    ops: tuple[str, ...]

    def __str__(self) -> str:
        named = ", ".join(self.ops[:2]) + (f" and {len(self.ops) - 2} more" if len(self.ops) > 2 else "")
        return f"by torch: {len(self.ops)} x {self.kind} ({named}): {self.why}"


@dataclass(frozen=True)
class Explanation:
    """How the executor runs a graph.

    Attributes:
        calls: the programs of kernels, in order.
        left: what runs by torch's rules.
    """

    calls: tuple[Call, ...]
    left: tuple[LeftOps, ...]

    def lines(self) -> Iterator[str]:
        """The calls, those that are alike in one line; then what is left, a line for each kind and reason."""
        for call, count in Counter(map(str, self.calls)).items():
            yield f"{count} x {call}" if count > 1 else call
        yield from map(str, self.left)

    def to_json(self) -> dict[str, Any]:
        """All of it; the keys are in docs/cli.md."""
        return {
            "calls": [call.ops for call in self.calls],
            "by_torch": [{"kind": each.kind, "why": each.why, "ops": list(each.ops)} for each in self.left],
        }


def explain(graph: Graph) -> Explanation:
    """How the executor runs a graph of packed steps."""
    plans = Plans(graph)
    calls = tuple(Call(dict(Counter(op.kind.name for op in ops))) for ops in plans.segments())
    reasons: dict[tuple[str, str], list[str]] = {}
    for op in plans.running:
        if op.name in plans.reasons:
            reasons.setdefault((op.kind.name, plans.reasons[op.name]), []).append(op.name)
    return Explanation(calls, tuple(LeftOps(kind, why, tuple(ops)) for (kind, why), ops in reasons.items()))
