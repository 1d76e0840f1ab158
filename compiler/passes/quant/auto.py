"""`quant=auto`: 4, 8 or 16 bits for each linear, by what they cost its outputs, under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.passes.quant.algorithms.grid import Grid
from compiler.passes.quant.calibration import CalibrationSource
from compiler.passes.quant.gptq import round_all
from compiler.passes.quant.layers import LayerResult, calibrate
from compiler.passes.quant.recipe import Recipe, Target, require_group, targets
from compiler.passes.quant.report import relative_error
from compiler.passes.quant.statistics import gather
from compiler.passes.quant.walk import View

_SCALE_BITS = 32
_UNQUANTIZED_BITS = 16


@dataclass(frozen=True)
class Choice:
    """One way to store a linear's weight.

    Attributes:
        grid: how it is rounded; None to leave it as it is.
        bits: what it takes, scales included.
        error: the square of the relative error of outputs.
    """

    grid: Grid | None
    bits: float
    error: float


def quantize_auto(graph: Graph, recipe: Recipe, calibration: CalibrationSource) -> Graph:
    """The graph with the weights of its targets in as many bits on average as the recipe says, scales included.

    Bits go where they take away most of the squared relative errors of outputs. What is quantized is quantized by GPTQ.

    Raises:
        PassError: as `targets` and `calibrate`, or if the budget is below the cheapest choice.
    """
    chosen = targets(graph, replace(recipe, group=0))
    if recipe.group:
        for target in chosen:
            require_group(target, recipe.group)
    grids = {target.op.name: (Grid(4, _group(target, recipe)), Grid(8)) for target in chosen}
    errors = _sensitivity(graph, chosen, grids, calibration)
    choices = {
        name: [
            *(Choice(grid, _bits(target, grid), errors[f"{name} {grid.bits}"] ** 2) for grid in grids[name]),
            Choice(None, _bits(target, None), 0.0),
        ]
        for name, target in ((target.op.name, target) for target in chosen)
    }
    elements = sum(target.weight.type.elements for target in chosen)
    picked = allocate(choices, recipe.bits * elements, elements)
    rounded = {name: choice.grid for name, choice in picked.items() if choice.grid is not None}
    return round_all(graph, [t for t in chosen if t.op.name in rounded], rounded, recipe, calibration)


def allocate(choices: Mapping[str, Sequence[Choice]], budget: float, elements: int) -> dict[str, Choice]:
    """A choice for each linear, within a budget of bits.

    All begin with their cheapest; again and again the one moves on to its next choice that gains most a bit and fits.

    Args:
        choices: the choices by the linear's name, the cheapest first.
        budget: how many bits there are for all.
        elements: how many weights there are, for messages.

    Raises:
        PassError: if the cheapest choices exceed the budget.
    """
    level = dict.fromkeys(choices, 0)
    spent = sum(options[0].bits for options in choices.values())
    if spent > budget:
        raise PassError(
            f"quant=auto cannot store these weights in {budget / elements:g} bits on average",
            hint=f"{spent / elements:.3f} are needed, scales included; give bits={spent / elements + 0.005:.2f}",
        )
    while True:
        steps = [
            (_gain(choices[name][at], choices[name][at + 1]), name)
            for name, at in level.items()
            if at + 1 < len(choices[name]) and spent + choices[name][at + 1].bits - choices[name][at].bits <= budget
        ]
        if not steps:
            return {name: choices[name][at] for name, at in level.items()}
        name = max(steps)[1]
        spent += choices[name][level[name] + 1].bits - choices[name][level[name]].bits
        level[name] += 1


def _gain(before: Choice, after: Choice) -> float:
    return (before.error - after.error) / (after.bits - before.bits)


def _sensitivity(
    graph: Graph,
    chosen: Sequence[Target],
    grids: Mapping[str, Sequence[Grid]],
    calibration: CalibrationSource,
) -> Mapping[str, float]:
    """The relative error of each linear's outputs for each grid, by `name bits`."""

    def solve(view: View, by_name: Mapping[str, Target]) -> LayerResult:
        known = gather(view.inputs, view.device, by_name[view.stop.ops[0].name].module, moment=False)
        errors = {}
        for name, weight in view.weights.items():
            outputs = known.rows @ weight.float().T
            for grid in grids[name]:
                rounded = known.rows @ grid.nearest(weight).dense().T
                errors[f"{name} {grid.bits}"] = relative_error(outputs, rounded)
        return LayerResult(errors=errors)

    return calibrate(graph, chosen, calibration, f"sensitivity {grids}", solve).errors


def _group(target: Target, recipe: Recipe) -> int:
    """The group of 4-bit weights: the recipe's, or the largest power of two up to 128 that divides a row."""
    columns = target.weight.type.sizes({})[1]
    return recipe.group or next((size for size in (128, 64, 32, 16) if columns % size == 0), 0)


def _bits(target: Target, grid: Grid | None) -> float:
    rows, columns = target.weight.type.sizes({})
    if grid is None:
        return float(_UNQUANTIZED_BITS * rows * columns)
    return float(grid.bits * rows * columns + _SCALE_BITS * rows * (columns // grid.width(columns)))
