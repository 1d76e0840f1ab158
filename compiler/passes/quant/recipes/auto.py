"""`quant=auto`: 4, 8 or 16 bits for each linear, by what they cost its outputs, under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from compiler.errors import PassError
from compiler.ir.comparison import relative_error
from compiler.ir.graph import Graph
from compiler.ir.products import product
from compiler.passes.quant.algorithms.scheme import IntegerScheme
from compiler.passes.quant.calibration.layerwise import BatchView
from compiler.passes.quant.calibration.source import current_calibration
from compiler.passes.quant.calibration.statistics import gather
from compiler.passes.quant.linears.layers import LayerResult, calibrate
from compiler.passes.quant.linears.targets import TargetLinear, targets
from compiler.passes.quant.recipe import GROUP, Recipe, algorithm
from compiler.passes.quant.recipes.gptq import Gptq, round_all
from compiler.passes.quant.recipes.nearest import Int4

_SCALE_BITS = 32
_UNQUANTIZED_BITS = 16


@dataclass(frozen=True)
class BitsChoice:
    """One way to store a linear's weight.

    Attributes:
        scheme: how it is rounded; None to leave it as it is.
        bits: what it takes, scales included.
        error: the square of the relative error of outputs.
    """

    scheme: IntegerScheme | None
    bits: float
    error: float


@algorithm("auto")
@dataclass(frozen=True)
class Auto(Recipe):
    """Weights in 4, 8 or 16 bits by GPTQ, in as many on average as `bits` says, scales included.

    Bits go where they take away most of the squared relative errors of outputs.
    """

    bits: Annotated[float, "bits per weight on average"] = 4.5
    group: Annotated[int, GROUP] = 0

    def without_data(self) -> Recipe:
        """Rounding to the nearest value."""
        return Int4(self.skip, self.only, group=self.group)

    def quantize(self, graph: Graph) -> Graph:
        """The graph with the weights of its targets quantized.

        Raises:
            PassError: as `targets` and `calibrate`, or if the budget is below the cheapest choice.
        """
        chosen = targets(graph, self, self.group)
        schemes = {
            target.op.name: (IntegerScheme(4, _group(target, self.group)), IntegerScheme(8)) for target in chosen
        }
        elements = sum(target.weight.type.elements for target in chosen)
        cheapest = {t.op.name: [BitsChoice(None, _bits(t, schemes[t.op.name][0]), 0.0)] for t in chosen}
        allocate(cheapest, self.bits * elements, elements)  # refuses what nothing fits, before anything is measured
        errors = _sensitivity(graph, chosen, schemes)
        choices = {
            name: [
                *(
                    BitsChoice(scheme, _bits(target, scheme), errors[f"{name} {scheme.bits}"] ** 2)
                    for scheme in schemes[name]
                ),
                BitsChoice(None, _bits(target, None), 0.0),
            ]
            for name, target in ((target.op.name, target) for target in chosen)
        }
        picked = allocate(choices, self.bits * elements, elements)
        rounded = {name: choice.scheme for name, choice in picked.items() if choice.scheme is not None}
        return round_all(graph, [t for t in chosen if t.op.name in rounded], rounded, Gptq(kl_budget=self.kl_budget))


def allocate(choices: Mapping[str, Sequence[BitsChoice]], budget: float, elements: int) -> dict[str, BitsChoice]:
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


def _gain(before: BitsChoice, after: BitsChoice) -> float:
    return (before.error - after.error) / (after.bits - before.bits)


def _sensitivity(
    graph: Graph,
    chosen: Sequence[TargetLinear],
    schemes: Mapping[str, Sequence[IntegerScheme]],
) -> Mapping[str, float]:
    """The relative error of each linear's outputs for each scheme, by `name bits`."""

    def solve(view: BatchView, by_name: Mapping[str, TargetLinear]) -> LayerResult:
        known = gather(view.inputs, view.device, by_name[view.point.ops[0].name].module, gram=False)
        errors = {}
        for name, weight in view.weights.items():
            outputs = product(known.rows, weight.float())
            for scheme in schemes[name]:
                rounded = product(known.rows, scheme.nearest(weight).dense())
                errors[f"{name} {scheme.bits}"] = relative_error(rounded, outputs)
        return LayerResult(errors=errors)

    return calibrate(graph, chosen, current_calibration(), f"sensitivity {schemes}", solve).errors


def _group(target: TargetLinear, group: int) -> int:
    """The group of 4-bit weights: the given one, or the largest power of two up to 128 that divides a row."""
    columns = target.weight.type.sizes({})[1]
    return group or next((size for size in (128, 64, 32, 16) if columns % size == 0), 0)


def _bits(target: TargetLinear, scheme: IntegerScheme | None) -> float:
    rows, columns = target.weight.type.sizes({})
    if scheme is None:
        return float(_UNQUANTIZED_BITS * rows * columns)
    return float(scheme.bits * rows * columns + _SCALE_BITS * rows * (columns // scheme.width(columns)))
