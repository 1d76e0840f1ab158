"""`quant=int8`, `int4` and `int3`: weights rounded to the nearest integer, and activations with int8."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from compiler.ir.graph import Graph
from compiler.passes.quant.algorithms.scheme import IntegerScheme
from compiler.passes.quant.linears.rounded import Rounding, quantize_rounded
from compiler.passes.quant.recipe import ACT, GROUP, Activations, Recipe, algorithm


@algorithm("int8")
@dataclass(frozen=True)
class Int8(Recipe):
    """Weights rounded to the nearest of 8 bits; with `act`, their inputs, too."""

    group: Annotated[int, GROUP] = 0
    act: Annotated[Activations, ACT] = "off"

    def without_data(self) -> Recipe:
        """With scales for each token, if there are any for activations."""
        return replace(self, kl_budget=None, act="off" if self.act == "off" else "token")

    def quantize(self, graph: Graph) -> Graph:
        """The graph with rounded weights. Raises as `quantize_rounded`."""
        return quantize_rounded(graph, self, Rounding(IntegerScheme(8, self.group), self.act))


@algorithm("int4")
@dataclass(frozen=True)
class Int4(Recipe):
    """Weights rounded to the nearest of 4 bits."""

    group: Annotated[int, GROUP] = 0

    def quantize(self, graph: Graph) -> Graph:
        """The graph with rounded weights. Raises as `quantize_rounded`."""
        return quantize_rounded(graph, self, Rounding(IntegerScheme(4, self.group)))


@algorithm("int3")
@dataclass(frozen=True)
class Int3(Recipe):
    """Weights rounded to the nearest of 3 bits, which are stored in 4."""

    group: Annotated[int, GROUP] = 0

    def quantize(self, graph: Graph) -> Graph:
        """The graph with rounded weights. Raises as `quantize_rounded`."""
        return quantize_rounded(graph, self, Rounding(IntegerScheme(3, self.group)))
