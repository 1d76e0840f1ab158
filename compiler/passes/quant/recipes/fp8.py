"""`quant=fp8`: weights and activations in e4m3."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from compiler.ir.graph import Graph
from compiler.passes.quant.algorithms.scheme import FloatScheme
from compiler.passes.quant.linears.rounded import Rounding, quantize_rounded
from compiler.passes.quant.recipe import ACT, Activations, Recipe, algorithm


@algorithm("fp8")
@dataclass(frozen=True)
class Fp8(Recipe):
    """Weights and inputs in e4m3, by scales from the largest values."""

    weights: Annotated[Literal["tensor", "channel"], "a scale for each weight, or for each of its output channels"] = (
        "tensor"
    )
    act: Annotated[Activations, ACT] = "static"
    round: Annotated[
        Literal["nearest", "gptq"], "each weight to the nearest value, or such that others make good its error"
    ] = "nearest"

    def without_data(self) -> Recipe:
        """To the nearest value, with scales for each token, if there are any for activations."""
        return replace(self, kl_budget=None, round="nearest", act="off" if self.act == "off" else "token")

    def quantize(self, graph: Graph) -> Graph:
        """The graph with rounded weights and inputs. Raises as `quantize_rounded`."""
        scheme = FloatScheme(whole=self.weights == "tensor")
        return quantize_rounded(graph, self, Rounding(scheme, self.act, self.round == "gptq"))
