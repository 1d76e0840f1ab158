"""What AWQ and SmoothQuant share: inputs multiplied by stored constants, and stored weights that undo it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.torch_types import to_torch
from compiler.passes.quant.calibration.points import CalibrationPoint, calibration_points
from compiler.passes.quant.linears.budget import quantize_linears
from compiler.passes.quant.linears.layers import CalibrationResults, stored_linear
from compiler.passes.quant.linears.rounding import RoundInput
from compiler.passes.quant.linears.smoothing import Make, find_places, smooth
from compiler.passes.quant.linears.targets import TargetLinear, targets
from compiler.passes.quant.recipe import Recipe
from compiler.passes.quant.store import Stored

# What the option says, which both have.
MULTIPLY = "multiply inputs where nothing absorbs their scales; false: leave those as they are"


@dataclass(frozen=True)
class PlaceholderSmoothing(Recipe):
    """A dry run of a recipe that smooths: inputs are multiplied by placeholders, and weights rounded by another recipe.

    Attributes:
        rounding: the recipe that rounds.
        group: how many weights share a scale.
        multiply: whether inputs are multiplied where nothing absorbs the scales.
    """

    rounding: Recipe | None = None
    group: int = 0
    multiply: bool = True

    def quantize(self, graph: Graph) -> Graph:
        """The graph as smoothing leaves it, but for the numbers.

        Raises:
            PassError: as the other recipe does.
        """
        assert self.rounding is not None
        points = calibration_points(target.op for target in targets(graph, self, self.group))
        kept = points if self.multiply else absorbed(graph, points)
        scales: dict[str, Make] = {point.x.name: partial(_placeholder, point.x) for point in kept}
        return self.rounding.quantize(smooth(graph, kept, scales))


def _placeholder(x: Value, b: RewriteBuilder) -> Value:
    return b.literal(dtype=x.type.dtype, shape=x.type.shape[-1:], values=(1.0,), name="pre_quant_scale")


def absorbed(graph: Graph, points: Sequence[CalibrationPoint]) -> list[CalibrationPoint]:
    """The points whose scales something absorbs, so that their inputs need not be multiplied."""
    places = find_places(graph, points)
    return [point for point in points if places[point.x.name].kind != "mul"]


def smoothable(graph: Graph, chosen: Sequence[TargetLinear], *, multiply: bool) -> Set[str]:
    """The names of the inputs of some linears that may be smoothed: all, or those whose scales something absorbs."""
    points = calibration_points(target.op for target in chosen)
    return {point.x.name for point in (points if multiply else absorbed(graph, points))}


def pre_scale(point: CalibrationPoint, scales: Tensor) -> Tensor:
    """The reciprocal of scales, as the graph will hold it: in the type of the input."""
    return (1 / scales).to(to_torch(point.x.type.dtype))


def stored_scale(point: CalibrationPoint, factor: Tensor, module: str) -> dict[str, Stored]:
    """What to store of a pre-scale; nothing if it is 1 throughout."""
    if bool((factor == 1).all()):
        return {}
    return {_key(point.x.name): Stored(factor, f"{module}.pre_quant_scale")}


def rewrite_smoothed(
    graph: Graph,
    chosen: Sequence[TargetLinear],
    results: CalibrationResults,
    kl_budget: float | None,
    round_input: RoundInput | None = None,
) -> Graph:
    """The graph with smoothed inputs and stored weights; `kl_budget` as for `quantize_linears`."""
    points = calibration_points(target.op for target in chosen)
    scales: dict[str, Make] = {
        point.x.name: partial(_const, results.refs[_key(point.x.name)])
        for point in points
        if _key(point.x.name) in results.refs
    }
    rows = _rows(graph, points, scales)

    def emit(op: Op, b: RewriteBuilder) -> Value:
        x = round_input(op, b) if round_input else None
        return stored_linear(op, b, results.refs, x=x, rows=rows.get(op.name))

    emits = {target.op.name: emit for target in chosen}
    return quantize_linears(smooth(graph, points, scales), emits, kl_budget)


def _rows(graph: Graph, points: Sequence[CalibrationPoint], scales: Mapping[str, Make]) -> dict[str, Make]:
    """What the rows of linears absorb, by the linear's name.

    Their stored weights do not hold it: factors of rows change scales only, whatever the quantized values are.
    """
    places = find_places(graph, [point for point in points if point.x.name in scales])
    return {place.op: scales[name] for name, place in places.items() if place.kind == "rows"}


def _const(ref: TensorRef, b: RewriteBuilder) -> Value:
    return b.const(data=ref, name="pre_quant_scale")


def _key(name: str) -> str:
    return f"{name}.pre_quant_scale"
