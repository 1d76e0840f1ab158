"""`quant=gptq`: weights by GPTQ, each layer calibrated on the outputs of the quantized ones before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from compiler.ir.comparison import relative_error
from compiler.ir.graph import Graph
from compiler.ir.products import product
from compiler.passes.quant.algorithms.gptq import factorize, gptq
from compiler.passes.quant.algorithms.scheme import IntegerScheme
from compiler.passes.quant.calibration.layerwise import BatchView
from compiler.passes.quant.calibration.source import current_calibration
from compiler.passes.quant.calibration.statistics import gather
from compiler.passes.quant.linears.budget import quantize_linears
from compiler.passes.quant.linears.layers import LayerResult, calibrate, describe, report, stored_linear, stored_weight
from compiler.passes.quant.linears.targets import TargetLinear, targets
from compiler.passes.quant.recipe import GROUP, Recipe, algorithm
from compiler.passes.quant.recipes.nearest import Int4, Int8


@algorithm("gptq")
@dataclass(frozen=True)
class Gptq(Recipe):
    """Weights by GPTQ: column after column, each error made good by the columns that follow."""

    bits: Annotated[float, "3, 4 or 8 bits per weight"] = 4
    group: Annotated[int, GROUP] = 128
    damping: Annotated[float, "added to the Hessian, as a part of its mean"] = 0.01
    order: Annotated[bool, "the columns with the largest activations first"] = True

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        self.require_bits(self.bits, 3, 4, 8)

    def without_data(self) -> Recipe:
        """Rounding to the nearest value."""
        nearest = Int4 if self.bits <= 4 else Int8
        return nearest(self.skip, self.only, group=self.group)

    def quantize(self, graph: Graph) -> Graph:
        """The graph with the weights of its targets quantized by GPTQ.

        Raises:
            PassError: as `targets` and `calibrate`, or if the inputs of a linear depend on one another too much.
        """
        chosen = targets(graph, self, self.group)
        scheme = IntegerScheme(int(self.bits), self.group)
        return round_all(graph, chosen, {target.op.name: scheme for target in chosen}, self)


def round_all(
    graph: Graph, chosen: Sequence[TargetLinear], schemes: Mapping[str, IntegerScheme], recipe: Gptq
) -> Graph:
    """The graph with some linears quantized by GPTQ, each on a scheme of its own, by the linear's name.

    Of the recipe, `damping`, `order` and `kl_budget` count.
    """

    def solve(view: BatchView, by_name: Mapping[str, TargetLinear]) -> LayerResult:
        module = by_name[view.point.ops[0].name].module
        known = gather(view.inputs, view.device, module)
        rows = known.rows
        factor = factorize(known.gram, damping=recipe.damping, order=recipe.order, name=module)
        del known  # the Gram matrix is as large as anything that a calibration holds
        tensors, errors, weights = {}, {}, {}
        for name, weight in view.weights.items():
            rounded = gptq(weight, factor, schemes[name])
            weights[name] = rounded.dense()
            tensors.update(stored_weight(by_name[name], rounded, schemes[name].dtype))
            errors[name] = relative_error(product(rows, weights[name]), product(rows, weight.float()))
        return LayerResult(tensors, errors, weights=weights)

    calibration = current_calibration()
    settings = f"gptq {recipe.damping} {recipe.order} {schemes}"
    results = calibrate(graph, chosen, calibration, settings, solve)
    named = {name: describe("gptq", scheme.bits, scheme.group) for name, scheme in schemes.items()}
    report(calibration, chosen, results.errors, named)
    emit = partial(stored_linear, refs=results.refs)
    return quantize_linears(graph, {target.op.name: emit for target in chosen}, recipe.kl_budget)
