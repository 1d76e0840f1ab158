"""`quant=smoothquant`: 8-bit weights and activations, with outliers moved from activations into weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from compiler.errors import PassError
from compiler.ir.comparison import relative_error
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.products import product
from compiler.passes.quant.algorithms.activations import round_activations
from compiler.passes.quant.algorithms.scheme import IntegerScheme
from compiler.passes.quant.algorithms.smoothquant import search_alpha, smoothing
from compiler.passes.quant.calibration.layerwise import BatchView
from compiler.passes.quant.calibration.source import current_calibration
from compiler.passes.quant.calibration.statistics import gather
from compiler.passes.quant.linears.layers import LayerResult, calibrate, report, stored_weight
from compiler.passes.quant.linears.rounding import input_rounding
from compiler.passes.quant.linears.smoothed import (
    MULTIPLY,
    PlaceholderSmoothing,
    pre_scale,
    rewrite_smoothed,
    smoothable,
    stored_scale,
)
from compiler.passes.quant.linears.targets import TargetLinear, targets
from compiler.passes.quant.recipe import ACT, Recipe, algorithm
from compiler.passes.quant.recipes.nearest import Int8


@algorithm("smoothquant")
@dataclass(frozen=True)
class SmoothQuant(Recipe):
    """Weights and inputs in int8 by SmoothQuant."""

    act: Annotated[Literal["token", "static"], ACT] = "token"
    alpha: Annotated[float, "the part of outliers that weights take over"] = 0.5
    search: Annotated[bool, "search alpha for each layer"] = False
    multiply: Annotated[bool, MULTIPLY] = True

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise PassError(f"alpha={self.alpha:g} is no part of a whole", hint="give one from 0 to 1")

    def without_data(self) -> Recipe:
        """Smoothing by placeholders, and rounding to the nearest value."""
        rounding = Int8(self.skip, self.only, act="token")
        return PlaceholderSmoothing(self.skip, self.only, None, rounding, multiply=self.multiply)

    def quantize(self, graph: Graph) -> Graph:
        """The graph with weights and inputs of its targets in int8.

        Raises:
            PassError: as `targets` and `calibrate`.
        """
        chosen, calibration = targets(graph, self), current_calibration()
        names = [target.op.name for target in chosen]
        alpha = "searched" if self.search else self.alpha
        absorbed = "" if self.multiply else " absorbed"
        smoothed = smoothable(graph, chosen, multiply=self.multiply)

        def solve(view: BatchView, by_name: Mapping[str, TargetLinear]) -> LayerResult:
            return self._solve(view, by_name, smooth=view.point.x.name in smoothed)

        results = calibrate(graph, chosen, calibration, f"smoothquant {alpha} {self.act} {names}{absorbed}", solve)
        report(calibration, chosen, results.errors, dict.fromkeys(names, f"smoothquant, int8, {self.act} activations"))
        round_input = input_rounding(self.act, DType.i8, results.numbers)
        return rewrite_smoothed(graph, chosen, results, self.kl_budget, round_input)

    def _solve(self, view: BatchView, by_name: Mapping[str, TargetLinear], *, smooth: bool) -> LayerResult:
        module, static, scheme = by_name[view.point.ops[0].name].module, self.act == "static", IntegerScheme(8)
        known = gather(view.inputs, view.device, module, gram=False)
        weights = {name: weight.float() for name, weight in view.weights.items()}
        if not smooth:
            scales = torch.ones_like(known.amax)
        elif self.search:
            _, scales = search_alpha(known.amax, known.rows, list(weights.values()), static=static)
        else:
            scales = smoothing(known.amax, list(weights.values()), self.alpha)
        factor = pre_scale(view.point, scales)
        tensors, errors = stored_scale(view.point, factor, module), {}
        wide = factor.float()
        largest = float((known.amax * wide).amax())
        rows = round_activations(known.rows * wide, largest if static else None)
        for name, weight in weights.items():
            rounded = scheme.nearest(weight / wide)
            tensors.update(stored_weight(by_name[name], rounded, scheme.dtype))
            errors[name] = relative_error(product(rows, rounded.dense()), product(known.rows, weight))
        return LayerResult(tensors, errors, dict.fromkeys(weights, largest))
