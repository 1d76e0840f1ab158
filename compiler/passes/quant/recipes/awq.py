"""`quant=awq`: weights rounded after scaling up the channels that matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch

from compiler.ir.comparison import relative_error
from compiler.ir.graph import Graph
from compiler.ir.products import product
from compiler.passes.quant.algorithms.awq import search_clipping, search_scales
from compiler.passes.quant.algorithms.scheme import IntegerScheme
from compiler.passes.quant.calibration.layerwise import BatchView
from compiler.passes.quant.calibration.source import current_calibration
from compiler.passes.quant.calibration.statistics import gather
from compiler.passes.quant.linears.layers import LayerResult, calibrate, describe, report, stored_weight
from compiler.passes.quant.linears.smoothed import (
    MULTIPLY,
    PlaceholderSmoothing,
    pre_scale,
    rewrite_smoothed,
    smoothable,
    stored_scale,
)
from compiler.passes.quant.linears.targets import TargetLinear, targets
from compiler.passes.quant.recipe import GROUP, Recipe, algorithm
from compiler.passes.quant.recipes.nearest import Int4


@algorithm("awq")
@dataclass(frozen=True)
class Awq(Recipe):
    """Weights by AWQ: channels are scaled, and ranges clipped, by what that does to outputs on calibration data."""

    bits: Annotated[float, "3 or 4 bits per weight"] = 4
    group: Annotated[int, GROUP] = 128
    multiply: Annotated[bool, MULTIPLY] = True

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        self.require_bits(self.bits, 3, 4)

    def without_data(self) -> Recipe:
        """Smoothing by placeholders, and rounding to the nearest value."""
        rounding = Int4(self.skip, self.only, group=self.group)
        return PlaceholderSmoothing(self.skip, self.only, None, rounding, self.group, self.multiply)

    def quantize(self, graph: Graph) -> Graph:
        """The graph with the weights of its targets quantized by AWQ.

        Raises:
            PassError: as `targets` and `calibrate`.
        """
        scheme, calibration = IntegerScheme(int(self.bits), self.group), current_calibration()
        chosen = targets(graph, self, self.group)

        smoothed = smoothable(graph, chosen, multiply=self.multiply)

        def solve(view: BatchView, by_name: Mapping[str, TargetLinear]) -> LayerResult:
            return _solve(view, by_name, scheme, smooth=view.point.x.name in smoothed)

        names = [target.op.name for target in chosen]
        results = calibrate(
            graph, chosen, calibration, f"awq {scheme} {names}{'' if self.multiply else ' absorbed'}", solve
        )
        report(calibration, chosen, results.errors, dict.fromkeys(names, describe("awq", self.bits, self.group)))
        return rewrite_smoothed(graph, chosen, results, self.kl_budget)


def _solve(view: BatchView, by_name: Mapping[str, TargetLinear], scheme: IntegerScheme, *, smooth: bool) -> LayerResult:
    module = by_name[view.point.ops[0].name].module
    known = gather(view.inputs, view.device, module)
    weights = {name: weight.float() for name, weight in view.weights.items()}
    scales = torch.ones_like(known.mean_abs)
    if smooth:
        scales = search_scales(list(weights.values()), known.mean_abs, known.gram, scheme)
    factor = pre_scale(view.point, scales)
    tensors, errors = stored_scale(view.point, factor, module), {}
    wide = factor.float()
    gram, rows = known.gram * wide * wide[:, None], known.rows * wide
    for name, weight in weights.items():
        smoothed = weight / wide
        rounded = scheme.nearest(smoothed, search_clipping(smoothed, gram, scheme))
        tensors.update(stored_weight(by_name[name], rounded, scheme.dtype))
        errors[name] = relative_error(product(rows, rounded.dense()), product(known.rows, weight))
    return LayerResult(tensors, errors)
