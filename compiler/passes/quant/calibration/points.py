"""Linears grouped by their input: what shares an input is calibrated together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compiler.ir.op import Op, Value


@dataclass(frozen=True)
class CalibrationPoint:
    """Linears over one input.

    Attributes:
        ops: the linears, in the order of the graph.
    """

    ops: tuple[Op, ...]

    @property
    def x(self) -> Value:
        """Their input."""
        return self.ops[0].operands[0]


def calibration_points(ops: Iterable[Op]) -> list[CalibrationPoint]:
    """Linears grouped by their input, in order."""
    groups: dict[str, list[Op]] = {}
    for op in ops:
        groups.setdefault(op.operands[0].name, []).append(op)
    return [CalibrationPoint(tuple(group)) for group in groups.values()]
