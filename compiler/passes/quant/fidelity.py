"""The errors of linears that were quantized without calibration, measured afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compiler.ir.graph import Graph
from compiler.passes.quant.algorithms.smoothquant import round_activations
from compiler.passes.quant.calibration import CalibrationSource
from compiler.passes.quant.layers import LayerResult, calibrate, describe, report
from compiler.passes.quant.recipe import Recipe, Target, targets
from compiler.passes.quant.report import relative_error
from compiler.passes.quant.static import nearest_weight
from compiler.passes.quant.statistics import gather
from compiler.passes.quant.walk import View

_WINDOWS = 4


def measure_rounding(graph: Graph, recipe: Recipe, calibration: CalibrationSource) -> None:
    """Tell the calibration what rounding to the nearest value costs each target of a recipe.

    A few windows do for that. Where there is no tokenizer to read the text with, nothing is told.

    Args:
        graph: the graph before the pass.
        recipe: rounds weights, and activations by a scale for each token if it says so.
        calibration: where to report.

    Raises:
        PassError: as `targets` and `calibrate`.
    """
    if not calibration.is_readable:
        return
    chosen = targets(graph, recipe)
    few = replace(calibration, samples=min(_WINDOWS, calibration.samples or _WINDOWS))

    def solve(view: View, by_name: Mapping[str, Target]) -> LayerResult:
        known = gather(view.inputs, view.device, by_name[view.stop.ops[0].name].module, moment=False)
        rows = round_activations(known.rows, None) if recipe.act == "token" else known.rows
        errors = {
            name: relative_error(known.rows @ weight.float().T, rows @ nearest_weight(weight, recipe).T)
            for name, weight in view.weights.items()
        }
        return LayerResult(errors=errors)

    results = calibrate(graph, chosen, few, f"rounding {recipe}", solve)
    report(calibration, chosen, results.errors, {target.op.name: describe(recipe) for target in chosen})
