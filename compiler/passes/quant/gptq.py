"""`quant=gptq`: weights by GPTQ, each layer calibrated on the outputs of the quantized ones before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from compiler.ir.graph import Graph
from compiler.passes.quant.algorithms.gptq import factorize, gptq
from compiler.passes.quant.algorithms.grid import Grid
from compiler.passes.quant.calibration import CalibrationSource
from compiler.passes.quant.layers import LayerResult, calibrate, describe, report, stored_linear, stored_weight
from compiler.passes.quant.recipe import Recipe, Target, rewrite_linears, targets
from compiler.passes.quant.report import relative_error
from compiler.passes.quant.statistics import gather
from compiler.passes.quant.walk import View


def quantize_gptq(graph: Graph, recipe: Recipe, calibration: CalibrationSource) -> Graph:
    """The graph with the weights of its targets quantized by GPTQ.

    Raises:
        PassError: as `targets` and `calibrate`, or if the inputs of a linear depend on one another too much.
    """
    chosen = targets(graph, recipe)
    grids = {target.op.name: Grid(int(recipe.bits), recipe.group, recipe.zero) for target in chosen}
    return round_all(graph, chosen, grids, recipe, calibration)


def round_all(
    graph: Graph,
    chosen: Sequence[Target],
    grids: Mapping[str, Grid],
    recipe: Recipe,
    calibration: CalibrationSource,
) -> Graph:
    """The graph with some linears quantized by GPTQ, each on a grid of its own, by the linear's name."""

    def solve(view: View, by_name: Mapping[str, Target]) -> LayerResult:
        module = by_name[view.stop.ops[0].name].module
        known = gather(view.inputs, view.device, module)
        factor = factorize(known.moment, damping=recipe.damping, order=recipe.order, name=module)
        tensors, errors, weights = {}, {}, {}
        for name, weight in view.weights.items():
            rounded = gptq(weight, factor, grids[name])
            weights[name] = rounded.dense()
            tensors.update(stored_weight(by_name[name], rounded, grids[name].bits))
            errors[name] = relative_error(known.rows @ weight.float().T, known.rows @ weights[name].T)
        return LayerResult(tensors, errors, weights=weights)

    settings = f"gptq {recipe.damping} {recipe.order} {grids}"
    results = calibrate(graph, chosen, calibration, settings, solve)
    named = {name: describe(recipe, grid.bits, grid.group) for name, grid in grids.items()}
    report(calibration, chosen, results.errors, named)
    emit = partial(stored_linear, refs=results.refs)
    return rewrite_linears(graph, {target.op.name: emit for target in chosen})
