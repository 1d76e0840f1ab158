"""Linears grouped by their input: what shares an input is calibrated together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compiler.ir.op import Op, Value


@dataclass(frozen=True)
class Stop:
    """Linears over one input.

    Attributes:
        ops: the linears, in the order of the graph.
    """

    ops: tuple[Op, ...]

    @property
    def x(self) -> Value:
        """Their input."""
        return self.ops[0].operands[0]


def stops_of(ops: Iterable[Op]) -> list[Stop]:
    """Linears grouped by their input, in order."""
    groups: dict[str, list[Op]] = {}
    for op in ops:
        groups.setdefault(op.operands[0].name, []).append(op)
    return [Stop(tuple(group)) for group in groups.values()]
