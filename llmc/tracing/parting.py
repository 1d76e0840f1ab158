"""Where two computations part, and how far apart they are by depth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from compiler.ir.analysis import constant_values
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.ir.torch_types import to_torch
from llmc.tracing.report import Comparison, Depth, Parting
from llmc.tracing.source import Traced
from llmc.verification.tolerance import logits_tolerance

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_SHOWN = 5
_AGAIN = 0.25
"""A value agrees again if its error is less than this part of what it is computed from has."""


def layer_of(name: str) -> int | None:
    """The number of the layer that a value belongs to: the first number in its name; None if there is none."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


class Tolerances:
    """How far each value may be off, in the order in which values are computed.

    What is computed may differ as the logits of a model of so many layers as are before it; see
    `llmc.verification.tolerance`. A weight may differ by one rounding to the coarser of its types, and integers by
    nothing, except the codes of values that are quantized while the model runs.

    Args:
        dtype: the coarser of the element types that the sides compute in.
        given: the tolerance of every value; None to derive them.
    """

    def __init__(self, dtype: str, given: float | None) -> None:
        self._dtype, self._given, self._depth = dtype, given, 1

    def of(self, a: Traced, b: Traced) -> float:
        """The tolerance of the next value."""
        layer = layer_of(a.name)
        if layer is not None and not a.constant:
            self._depth = max(self._depth, layer + 1)
        if self._given is not None:
            return self._given
        dtype = a.type.dtype
        if not dtype.is_float and (a.constant or dtype.bits > 8 or dtype is DType.bool):
            return 0.0
        if a.constant:
            return max(torch.finfo(to_torch(each.type.dtype)).eps for each in (a, b))
        return logits_tolerance(self._dtype, self._depth if layer is None else layer + 1)


def find_parting(graphs: Sequence[Graph], comparisons: Sequence[Comparison]) -> Parting | None:
    """The first comparison that parts, with what it is computed from; None if none does.

    Args:
        graphs: the graphs that name the values of A, one for each stage.
        comparisons: in the order in which A computes the values.
    """
    first = next((each for each in comparisons if each.parts), None)
    if first is None:
        return None
    origins = _Origins(graphs, comparisons)
    operands, between = origins.of(first.a.name)
    return Parting(first, operands, between, tuple(_agreeing_again(comparisons, origins)))


def _agreeing_again(comparisons: Iterable[Comparison], origins: _Origins) -> list[str]:
    """The first values that agree, though something that they are computed from does not."""
    found = []
    for each in comparisons:
        if not each.parts and not each.constant:
            operands, _ = origins.of(each.a.name)
            apart = (operand.difference.error for operand in operands if operand.parts and not operand.constant)
            if each.difference.error < _AGAIN * max(apart, default=0.0):
                found.append(each.a.name)
                if len(found) == _SHOWN:
                    break
    return found


class _Origins:
    """What compared values are computed from."""

    def __init__(self, graphs: Sequence[Graph], comparisons: Sequence[Comparison]) -> None:
        self._producers: Mapping[str, Op] = {name: op for graph in graphs for name, op in graph.producers.items()}
        self._constant = frozenset[str]().union(*map(constant_values, graphs))
        self._compared: dict[str, list[Comparison]] = {}
        for each in comparisons:
            self._compared.setdefault(each.a.name, []).append(each)

    def of(self, name: str) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
        """The nearest compared values that a value is computed from, and those between that are no weights."""
        operands: dict[int, Comparison] = {}
        between: dict[str, None] = {}
        left = self._operands(name)
        while left:
            at = left.pop()
            if at in self._compared:
                operands.update((id(each), each) for each in self._compared[at])
            elif at not in between and at in self._producers and at not in self._constant:
                between[at] = None
                left += self._operands(at)
        return tuple(operands.values()), tuple(reversed(between))

    def _operands(self, name: str) -> list[str]:
        op = self._producers.get(name)
        return [] if op is None else [value.name for value in op.operands]


def by_depth(comparisons: Iterable[Comparison]) -> tuple[Depth, ...]:
    """The errors of each layer, in order, and before and behind the layers; weights and integers aside."""
    rows: dict[str, list[Comparison]] = {}
    behind = False
    for each in comparisons:
        if each.constant or not each.a.type.startswith(("f", "bf")):
            continue
        behind = behind or each.layer is not None
        words = f"layer {each.layer}" if each.layer is not None else "behind the layers" if behind else "before them"
        rows.setdefault(words, []).append(each)
    error: Callable[[Comparison], float] = lambda each: each.difference.error  # noqa: E731
    return tuple(Depth(row[-1].layer, words, row[-1], max(row, key=error)) for words, row in rows.items())
