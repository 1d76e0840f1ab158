"""`quant=smoothquant`: 8-bit weights and activations, with outliers moved from activations into weights."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.rewrite import RewriteBuilder
from compiler.passes.quant.algorithms.grid import Grid
from compiler.passes.quant.algorithms.smoothquant import round_activations, search_alpha, smoothing
from compiler.passes.quant.calibration import CalibrationSource
from compiler.passes.quant.layers import LayerResult, calibrate, report, stored_weight
from compiler.passes.quant.recipe import Recipe, Target, targets
from compiler.passes.quant.report import relative_error
from compiler.passes.quant.rtn import StaticScales, TokenScales
from compiler.passes.quant.smoothed import Round, pre_scale, rewrite_smoothed, stored_scale
from compiler.passes.quant.statistics import gather
from compiler.passes.quant.walk import View


def quantize_smoothquant(graph: Graph, recipe: Recipe, calibration: CalibrationSource) -> Graph:
    """The graph with weights and inputs of its targets in int8.

    Raises:
        PassError: as `targets` and `calibrate`.
    """
    chosen = targets(graph, recipe)
    static = recipe.act == "static"

    def solve(view: View, by_name: Mapping[str, Target]) -> LayerResult:
        module = by_name[view.stop.ops[0].name].module
        known = gather(view.inputs, view.device, module, moment=False)
        weights = {name: weight.float() for name, weight in view.weights.items()}
        if recipe.alpha is None:
            _, scales = search_alpha(known.amax, known.rows, list(weights.values()), static=static)
        else:
            scales = smoothing(known.amax, list(weights.values()), recipe.alpha)
        factor = pre_scale(view.stop, scales)
        tensors, errors = stored_scale(view.stop, factor, module), {}
        wide = factor.float()
        largest = (known.amax * wide).amax()
        rows = round_activations(known.rows * wide, largest if static else None)
        for name, weight in weights.items():
            rounded = Grid(8).nearest(weight / wide)
            tensors.update(stored_weight(by_name[name], rounded, 8))
            errors[name] = relative_error(known.rows @ weight.T, rows @ rounded.dense().T)
        return LayerResult(tensors, errors, {view.stop.x.name: float(largest)})

    settings = f"smoothquant {recipe.alpha} {static} {[target.op.name for target in chosen]}"
    results = calibrate(graph, chosen, calibration, settings, solve)
    named = f"smoothquant, int8, {recipe.act} activations"
    report(calibration, chosen, results.errors, {target.op.name: named for target in chosen})
    round_input = _static(results.numbers) if static else _by_token()
    return rewrite_smoothed(graph, chosen, results, round_input)


def _by_token() -> Round:
    scales = TokenScales(DType.i8)
    return lambda x, name, b: scales(x, b)


def _static(amax: Mapping[str, float]) -> Round:
    """Scales by the largest values that calibration saw of each input, by the input's name before smoothing."""
    seen: dict[str, float] = {}
    scales = StaticScales(DType.i8, lambda x: seen[x.name])

    def round_input(x: Value, name: str, b: RewriteBuilder) -> Value:
        seen[x.name] = amax[name]
        return scales(x, b)

    return round_input
