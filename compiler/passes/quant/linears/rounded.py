"""Linears with rounded weights, and rounded inputs where those are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from compiler.ir.comparison import relative_error
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.products import product
from compiler.ir.rewrite import RewriteBuilder
from compiler.passes.quant.algorithms.activations import round_activations
from compiler.passes.quant.algorithms.gptq import factorize, gptq
from compiler.passes.quant.algorithms.scheme import Rounded, Scheme
from compiler.passes.quant.calibration.layerwise import BatchView
from compiler.passes.quant.calibration.source import CalibrationSource, current_calibration, find_calibration
from compiler.passes.quant.calibration.statistics import gather
from compiler.passes.quant.linears.budget import quantize_linears
from compiler.passes.quant.linears.layers import (
    CalibrationResults,
    LayerResult,
    Solve,
    calibrate,
    describe,
    measure,
    report,
    stored_linear,
    stored_weight,
)
from compiler.passes.quant.linears.replace import dequantized_linear
from compiler.passes.quant.linears.rounding import input_rounding, round_weight
from compiler.passes.quant.linears.sample import TOKENS, WINDOWS, quick_sample
from compiler.passes.quant.linears.targets import TargetLinear, targets
from compiler.passes.quant.recipe import Activations, Recipe
from compiler.passes.quant.report import ErrorSample

# Windows of a full report where nothing else needs data.
_WINDOWS = 4
_STEPS = 8


@dataclass(frozen=True)
class Rounding:
    """How linears are rounded.

    Attributes:
        scheme: the values of weights.
        act: what is done to inputs, which get the type of the weights.
        compensate: whether weights make good each other's errors (GPTQ); else each becomes the nearest value.
    """

    scheme: Scheme
    act: Activations = "off"
    compensate: bool = False

    @property
    def needs_data(self) -> bool:
        """Whether there is anything to learn from data."""
        return self.act == "static" or self.compensate

    def weights(self, weights: Mapping[str, Tensor], gram: Tensor, module: str) -> dict[str, Rounded]:
        """The weights of linears over one input rounded; `gram` is the Gram matrix `X^T X` of its values, `[K, K]`."""
        if not self.compensate:
            return {name: self.scheme.nearest(weight) for name, weight in weights.items()}
        factor = factorize(gram, name=module)
        return {name: gptq(weight, factor, self.scheme) for name, weight in weights.items()}


def quantize_rounded(graph: Graph, recipe: Recipe, rounding: Rounding) -> Graph:
    """The graph with the targets of a recipe rounded.

    Raises:
        PassError: as `targets` and `round_linears`.
    """
    chosen = targets(graph, recipe, rounding.scheme.group)
    return round_linears(graph, chosen, rounding, recipe.algorithm, recipe.kl_budget)


def round_linears(
    graph: Graph, chosen: Sequence[TargetLinear], rounding: Rounding, algorithm: str, kl_budget: float | None = None
) -> Graph:
    """The graph with some linears rounded.

    Without a need for data, data serves to report errors, if a report is wanted and there is any that can be read.

    Args:
        graph: the graph.
        chosen: the linears.
        rounding: how they are rounded.
        algorithm: what the report calls that.
        kl_budget: the most that it may cost; see `quantize_linears`.

    Raises:
        PassError: as `calibrate` and `quantize_linears`.
    """
    how = _described(algorithm, rounding)
    if rounding.needs_data:
        results = _calibrated(graph, chosen, how, rounding, current_calibration())
    else:
        results = CalibrationResults({}, {}, {})
        _report_only(graph, chosen, how, rounding, everything=kl_budget is not None)
    round_input = input_rounding(rounding.act, rounding.scheme.dtype, results.numbers)

    def emit(op: Op, b: RewriteBuilder) -> Value:
        x = round_input(op, b) if round_input else None
        if rounding.compensate:
            return stored_linear(op, b, results.refs, x=x)
        weight = round_weight(b, op.operands[1], rounding.scheme)
        return dequantized_linear(op, b, weight.q, weight.scale, x=x)

    return quantize_linears(graph, {target.op.name: emit for target in chosen}, kl_budget)


def _calibrated(
    graph: Graph, chosen: Sequence[TargetLinear], how: str, rounding: Rounding, calibration: CalibrationSource
) -> CalibrationResults:
    """The results for all targets, whose errors are reported as those of `how`."""
    results = calibrate(graph, chosen, calibration, f"{rounding} {_names(chosen)}", _solver(rounding))
    report(calibration, chosen, results.errors, dict.fromkeys(_names(chosen), how))
    return results


def _report_only(
    graph: Graph, chosen: Sequence[TargetLinear], how: str, rounding: Rounding, *, everything: bool
) -> None:
    """Report the errors of targets that need no data: of all, or of the first ones; none if no report is wanted.

    Args:
        graph: the graph.
        chosen: the targets.
        how: what the report calls the rounding.
        rounding: how they are rounded.
        everything: whether a quick report measures all of them, too: a KL budget takes longer than that anyway.
    """
    calibration = find_calibration()
    if calibration is None or not calibration.is_readable or calibration.report.extent == "off":
        return
    if calibration.report.extent == "full" or everything:
        _calibrated(graph, chosen, how, rounding, calibration.at_most(_WINDOWS, graph))
        return
    sample = quick_sample(graph, chosen)
    windows = calibration.quick(WINDOWS, TOKENS, graph).windows(graph)
    if sample:
        errors = measure(graph, sample, windows, calibration, _solver(rounding))
        report(calibration, sample, errors, dict.fromkeys(_names(sample), how))
    if len(sample) < len(chosen):
        count, length = windows.shape if sample else (0, 0)
        calibration.report.samples.append(ErrorSample(how, len(sample), len(chosen), count, length))


def _described(algorithm: str, rounding: Rounding) -> str:
    how = describe(algorithm, rounding.scheme.bits, rounding.scheme.group)
    return how if rounding.act == "off" else f"{how}, {rounding.act} activations"


def _solver(rounding: Rounding) -> Solve:
    def solve(view: BatchView, by_name: Mapping[str, TargetLinear]) -> LayerResult:
        module = by_name[view.point.ops[0].name].module
        known = gather(view.inputs, view.device, module, gram=rounding.compensate)
        rounded = rounding.weights(view.weights, known.gram, module)
        dense = {name: weight.dense() for name, weight in rounded.items()}
        outcomes = [
            (amax, _errors(known.rows, amax, view.weights, dense, rounding))
            for amax in _candidates(known.amax, rounding)
        ]
        amax, errors = min(outcomes, key=lambda outcome: sum(error**2 for error in outcome[1].values()))
        numbers = {} if amax is None else dict.fromkeys(dense, amax)
        if not rounding.compensate:
            return LayerResult(errors=errors, numbers=numbers)
        tensors = {}
        for name, weight in rounded.items():
            tensors.update(stored_weight(by_name[name], weight, rounding.scheme.dtype))
        return LayerResult(tensors, errors, numbers, dense)

    return solve


def _candidates(amax: Tensor, rounding: Rounding) -> list[float | None]:
    """What may become the largest value of the inputs' type: None for that of each token.

    How well a floating-point type holds values that come again and again, such as those of an outlying channel, depends
    on where they fall between two powers of two. So there the scales up to twice that of the largest value are tried,
    which all hold every value.
    """
    if rounding.act != "static":
        return [None]
    steps = _STEPS if rounding.scheme.dtype.is_float else 1
    return [float(amax.amax()) * 2 ** (step / _STEPS) for step in range(steps)]


def _errors(
    rows: Tensor, amax: float | None, before: Mapping[str, Tensor], after: Mapping[str, Tensor], rounding: Rounding
) -> dict[str, float]:
    """The relative errors of the outputs of linears for some inputs `[T, K]`, by the linears' names."""
    inputs = rows if rounding.act == "off" else round_activations(rows, amax, rounding.scheme.dtype)
    return {name: relative_error(product(inputs, after[name]), product(rows, before[name].float())) for name in after}


def _names(chosen: Sequence[TargetLinear]) -> list[str]:
    return [target.op.name for target in chosen]
