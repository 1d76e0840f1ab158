"""`act=static`: weights rounded to the nearest value, activations by one scale each from calibration."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.quant_evaluators import dequantize, quantize
from compiler.ir.rewrite import RewriteBuilder
from compiler.passes.quant.calibration import CalibrationSource
from compiler.passes.quant.layers import LayerResult, calibrate, report
from compiler.passes.quant.recipe import Recipe, Target, dequantized_linear, rewrite_linears, targets
from compiler.passes.quant.report import relative_error
from compiler.passes.quant.rtn import LARGEST, StaticScales, round_weight
from compiler.passes.quant.statistics import gather
from compiler.passes.quant.walk import View

STEPS = 8
"""How many scales of a floating-point type are tried."""


def quantize_static(graph: Graph, recipe: Recipe, calibration: CalibrationSource) -> Graph:
    """The graph with weights and inputs of its targets quantized, inputs by the largest value that calibration saw.

    How well a floating-point type holds values that come again and again, such as those of an outlying channel, depends
    on where they fall between two powers of two. So of the scales up to twice that of the largest value, which all hold
    every value, the one with the least error of outputs is taken.

    Raises:
        PassError: as `targets` and `calibrate`.
    """
    chosen = targets(graph, recipe)

    def solve(view: View, by_name: Mapping[str, Target]) -> LayerResult:
        known = gather(view.inputs, view.device, by_name[view.stop.ops[0].name].module, moment=False)
        weights = {name: (weight.float(), nearest_weight(weight, recipe)) for name, weight in view.weights.items()}
        largest = float(known.amax.amax())
        factors = [2 ** (step / STEPS) for step in range(STEPS)] if recipe.dtype.is_float else [1.0]
        outcomes = [
            (largest * factor, _errors(known.rows, largest * factor, weights, recipe.dtype)) for factor in factors
        ]
        amax, errors = min(outcomes, key=lambda outcome: sum(error**2 for error in outcome[1].values()))
        return LayerResult(errors=errors, numbers={view.stop.x.name: amax})

    settings = f"static {STEPS} {recipe.dtype} {recipe.group} {recipe.weights} {[target.op.name for target in chosen]}"
    results = calibrate(graph, chosen, calibration, settings, solve)
    named = f"{recipe.algorithm}, static activations"
    report(calibration, chosen, results.errors, {target.op.name: named for target in chosen})
    scales = StaticScales(recipe.dtype, lambda x: results.numbers[x.name])

    def emit(op: Op, b: RewriteBuilder) -> Value:
        rounded = round_weight(b, op.operands[1], recipe)
        return dequantized_linear(op, b, rounded.q, rounded.scale, x=scales(op.operands[0], b))

    return rewrite_linears(graph, {target.op.name: emit for target in chosen})


def _errors(rows: Tensor, amax: float, weights: Mapping[str, tuple[Tensor, Tensor]], dtype: DType) -> dict[str, float]:
    """The errors of linears by their names, over inputs scaled by `amax`; `weights` has each before and after."""
    rounded = _nearest(rows, torch.tensor([[amax]], device=rows.device), dtype)
    return {name: relative_error(rows @ weight.T, rounded @ after.T) for name, (weight, after) in weights.items()}


def nearest_weight(weight: Tensor, recipe: Recipe) -> Tensor:
    """A weight rounded to the nearest value of the recipe's type and back, float32 `[N, K]`."""
    weight = weight.float()
    if recipe.algorithm == "fp8" and recipe.weights == "tensor":
        return _nearest(weight, weight.abs().amax()[None, None], recipe.dtype)
    groups = weight.unflatten(1, (-1, recipe.group or weight.shape[1])).abs().amax(2)
    return _nearest(weight, groups, recipe.dtype)


def _nearest(x: Tensor, amax: Tensor, dtype: DType) -> Tensor:
    scale = torch.clamp(amax / LARGEST[dtype], min=2.0**-24)
    return dequantize(quantize(x, scale, None, dtype), scale, None)
