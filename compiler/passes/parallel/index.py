"""An index of a graph's factors: which tensors have axes that hold each leaf, that is each factor without parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from compiler.ir.op import Op
from compiler.passes.parallel.factors import Factor, leaves
from compiler.passes.parallel.graph_factors import GraphFactors, Use


@dataclass(frozen=True)
class Split:
    """How a factor is split: into `parts`, each on `each` ranks in a row."""

    parts: int
    each: int


class Index:
    """For each leaf of a graph's factors, where it occurs.

    Attributes:
        factors: the factors of the graph.
        places: for each leaf the values, and the uses of constants, whose axes hold it.
        twice: the leaves that some tensor has twice: to split both would leave its diagonal.
        rows: for each leaf the linears that sum over it.
        columns: for each leaf the linears whose outputs it is a factor of.
    """

    def __init__(self, factors: GraphFactors) -> None:
        self.factors = factors
        self.places: dict[Factor, list[str | Use]] = {}
        self.twice: set[Factor] = set()
        for place, axes in factors.all_axes():
            found = leaves(axes)
            for leaf in found:
                self.places.setdefault(leaf, []).append(place)
            if len(set(found)) < len(found):
                self.twice.update(leaf for leaf in found if found.count(leaf) > 1)
        self.rows: dict[Factor, list[Op]] = {}
        self.columns: dict[Factor, list[Op]] = {}
        for op in factors.contractions:
            for leaf in self.summed(op):
                self.rows.setdefault(leaf, []).append(op)
            for leaf in self.made(op):
                self.columns.setdefault(leaf, []).append(op)

    def summed(self, op: Op) -> list[Factor]:
        """The leaves of the last axis of a linear's input, which it sums over."""
        return leaves(self.factors.operand(op, 0)[-1:])

    def made(self, op: Op) -> list[Factor]:
        """The leaves of the last axis of a linear's result."""
        return leaves(self.factors.values[op.name][-1:])

    def free(self, op: Op) -> list[Factor]:
        """The leaves that a linear sums over and that nothing needs all of."""
        return [
            leaf
            for leaf in self.summed(op)
            if isinstance(leaf.size, int) and leaf not in self.factors.whole and leaf not in self.twice
        ]

    def is_head(self, op: Op) -> bool:
        """Whether a linear makes an output of the graph: the sum of all logits would have to travel."""
        return any(leaf in self.factors.outputs for leaf in self.made(op))

    def bytes_saved(self, splits: Mapping[Factor, Split]) -> int:
        """How much less each rank has to store."""
        operands: dict[Use, list[int]] = {}
        for factor, split in splits.items():
            for place in self.places[factor]:
                if isinstance(place, tuple):
                    operands.setdefault(place, []).append(split.parts)
        ops = self.factors.graph.producers
        sizes = {place: ops[place[0]].operands[place[1]].type.nbytes for place in operands}
        return sum(sizes[place] - sizes[place] // prod(parts) for place, parts in operands.items())
