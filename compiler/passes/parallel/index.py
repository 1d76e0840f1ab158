"""An index of the tensors whose axes hold each leaf, that is each atom without parts, of a layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from compiler.ir.op import Op
from compiler.passes.parallel.atoms import Atom, leaves
from compiler.passes.parallel.layout import Layout, Use


@dataclass(frozen=True)
class Split:
    """How an atom is split: into `parts`, each on `each` ranks in a row."""

    parts: int
    each: int


class Index:
    """For each leaf of a layout, where it occurs.

    Attributes:
        layout: the layout.
        places: for each leaf the values, and the uses of constants, whose axes hold it.
        twice: the leaves that some tensor has twice: to split both would leave its diagonal.
        rows: for each leaf the linears that sum over it.
        columns: for each leaf the linears whose outputs it is a factor of.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.places: dict[Atom, list[str | Use]] = {}
        self.twice: set[Atom] = set()
        for place, axes in layout.all_axes():
            found = leaves(axes)
            for leaf in found:
                self.places.setdefault(leaf, []).append(place)
            if len(set(found)) < len(found):
                self.twice.update(leaf for leaf in found if found.count(leaf) > 1)
        self.rows: dict[Atom, list[Op]] = {}
        self.columns: dict[Atom, list[Op]] = {}
        for op in layout.contractions:
            for leaf in self.summed(op):
                self.rows.setdefault(leaf, []).append(op)
            for leaf in self.made(op):
                self.columns.setdefault(leaf, []).append(op)

    def summed(self, op: Op) -> list[Atom]:
        """The leaves of the last axis of a linear's input, which it sums over."""
        return leaves(self.layout.operand(op, 0)[-1:])

    def made(self, op: Op) -> list[Atom]:
        """The leaves of the last axis of a linear's result."""
        return leaves(self.layout.values[op.name][-1:])

    def free(self, op: Op) -> list[Atom]:
        """The leaves that a linear sums over and that nothing needs all of."""
        return [
            leaf
            for leaf in self.summed(op)
            if isinstance(leaf.size, int) and leaf not in self.layout.whole and leaf not in self.twice
        ]

    def is_head(self, op: Op) -> bool:
        """Whether a linear makes an output of the graph: the sum of all logits would have to travel."""
        return any(leaf in self.layout.outputs for leaf in self.made(op))

    def bytes_saved(self, splits: Mapping[Atom, Split]) -> int:
        """How much less each rank has to store."""
        operands: dict[Use, list[int]] = {}
        for atom, split in splits.items():
            for place in self.places[atom]:
                if isinstance(place, tuple):
                    operands.setdefault(place, []).append(split.parts)
        ops = self.layout.graph.producers
        sizes = {place: ops[place[0]].operands[place[1]].type.nbytes for place in operands}
        return sum(sizes[place] - sizes[place] // prod(parts) for place, parts in operands.items())
