"""What executors with kernels of their own leave to torch's rules, for a reader."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from compiler.ir.op import Op


@dataclass(frozen=True)
class PlainOps:
    """Operations of one kind that run by torch's rules, one after the other.

    Attributes:
        kind: the kind.
        why: why no kernel computes them, as the rest of a sentence.
        ops: their names.
    """

    kind: str
    why: str
    ops: tuple[str, ...]

    @property
    def some(self) -> str:
        """The first of their names, and how many more there are."""
        return ", ".join(self.ops[:2]) + (f" and {len(self.ops) - 2} more" if len(self.ops) > 2 else "")

    def __str__(self) -> str:
        return f"{len(self.ops)} x {self.kind}"

    def to_json(self) -> dict[str, Any]:
        """All of it; the keys are in docs/cli.md."""
        return {"kind": self.kind, "why": self.why, "ops": list(self.ops)}


def plain_ops(left: Iterable[tuple[Op, str]]) -> tuple[PlainOps, ...]:
    """Operations, each with the reason why no kernel computes it, by kind and reason."""
    names: dict[tuple[str, str], list[str]] = {}
    for op, why in left:
        names.setdefault((op.kind.name, why), []).append(op.name)
    return tuple(PlainOps(kind, why, tuple(ops)) for (kind, why), ops in names.items())
