"""`quant=awq`: 4-bit weights after scaling up the channels that matter."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.ir.graph import Graph
from compiler.passes.quant.algorithms.awq import search_clipping, search_scales
from compiler.passes.quant.algorithms.grid import Grid
from compiler.passes.quant.calibration import CalibrationSource
from compiler.passes.quant.layers import LayerResult, calibrate, describe, report, stored_weight
from compiler.passes.quant.recipe import Recipe, Target, targets
from compiler.passes.quant.report import relative_error
from compiler.passes.quant.smoothed import pre_scale, rewrite_smoothed, stored_scale
from compiler.passes.quant.statistics import gather
from compiler.passes.quant.walk import View


def quantize_awq(graph: Graph, recipe: Recipe, calibration: CalibrationSource) -> Graph:
    """The graph with the weights of its targets quantized by AWQ.

    Raises:
        PassError: as `targets` and `calibrate`.
    """
    chosen = targets(graph, recipe)
    grid = Grid(int(recipe.bits), recipe.group, recipe.zero)

    def solve(view: View, by_name: Mapping[str, Target]) -> LayerResult:
        module = by_name[view.stop.ops[0].name].module
        known = gather(view.inputs, view.device, module)
        weights = {name: weight.float() for name, weight in view.weights.items()}
        scales = search_scales(list(weights.values()), known.mean_abs, known.moment, grid)
        factor = pre_scale(view.stop, scales)
        tensors, errors = stored_scale(view.stop, factor, module), {}
        wide = factor.float()
        moment, rows = known.moment * wide * wide[:, None], known.rows * wide
        for name, weight in weights.items():
            smoothed = weight / wide
            rounded = grid.nearest(smoothed, search_clipping(smoothed, moment, grid))
            tensors.update(stored_weight(by_name[name], rounded, grid.bits))
            errors[name] = relative_error(known.rows @ weight.T, rows @ rounded.dense().T)
        return LayerResult(tensors, errors)

    results = calibrate(graph, chosen, calibration, f"awq {grid} {_names(chosen)}", solve)
    report(calibration, chosen, results.errors, {target.op.name: describe(recipe) for target in chosen})
    return rewrite_smoothed(graph, chosen, results)


def _names(chosen: list[Target]) -> list[str]:
    return [target.op.name for target in chosen]
