"""Calibrating the targets of a recipe layer by layer, with the results kept in files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder
from compiler.ir.tensor_ref import TensorRef
from compiler.passes.quant.algorithms.scheme import Rounded
from compiler.passes.quant.calibration.layerwise import BatchView, LayerwiseCalibration
from compiler.passes.quant.calibration.points import calibration_points
from compiler.passes.quant.calibration.source import CalibrationSource
from compiler.passes.quant.calibration.statistics import require_finite
from compiler.passes.quant.linears.replace import dequantized_linear
from compiler.passes.quant.linears.targets import TargetLinear
from compiler.passes.quant.report import OpError
from compiler.passes.quant.store import ResultStore, Stored


@dataclass(frozen=True)
class LayerResult:
    """What calibration made of linears over one input.

    Attributes:
        tensors: what to store, by key.
        errors: the error of each linear, by its name.
        numbers: what to note, by key.
        weights: weights that later layers are calibrated with, by the linear's name.
    """

    tensors: Mapping[str, Stored] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class CalibrationResults:
    """The results for all layers.

    Attributes:
        refs: where the tensors are, by key.
        numbers: what was noted, by key.
        errors: the error of each linear, by its name.
    """

    refs: Mapping[str, TensorRef]
    numbers: Mapping[str, float]
    errors: Mapping[str, float]


Solve = Callable[[BatchView, Mapping[str, TargetLinear]], LayerResult]
"""Calibrates the linears of a calibration point, whose targets are given by the linears' names."""


def calibrate(
    graph: Graph, targets: Sequence[TargetLinear], calibration: CalibrationSource, settings: str, solve: Solve
) -> CalibrationResults:
    """The results for some targets: those found in the cache, or new ones.

    Raises:
        PassError: if the calibration text does not do, or a weight or input is NaN or infinite.
    """
    windows = calibration.windows(graph)
    store = ResultStore(graph, windows, settings)
    if store.note is None:
        found = _run(graph, targets, calibration, windows, solve, store.write)
        store.finish({"errors": found.errors, "numbers": found.numbers})
    note = store.note or {}
    numbers, errors = note.get("numbers", {}), note.get("errors", {})
    assert isinstance(numbers, dict) and isinstance(errors, dict)
    return CalibrationResults(store.refs(), numbers, errors)


def measure(
    graph: Graph, targets: Sequence[TargetLinear], windows: Tensor, calibration: CalibrationSource, solve: Solve
) -> Mapping[str, float]:
    """The errors of some targets on some windows, by the linear's name. Nothing is found in the cache, nor kept there.

    Raises:
        PassError: if a weight or input is NaN or infinite.
    """
    return _run(graph, targets, calibration, windows, solve, lambda tensors: None).errors


def _run(
    graph: Graph,
    targets: Sequence[TargetLinear],
    calibration: CalibrationSource,
    windows: Tensor,
    solve: Solve,
    write: Callable[[Mapping[str, Stored]], None],
) -> LayerResult:
    """The errors and numbers of all targets; `write` is given the tensors of each calibration point."""
    by_name = {target.op.name: target for target in targets}
    errors: dict[str, float] = {}
    numbers: dict[str, float] = {}

    def visit(view: BatchView) -> Mapping[str, Tensor] | None:
        for name, weight in view.weights.items():
            require_finite(weight, by_name[name].module)
        result = solve(view, by_name)
        if result.tensors:
            write(result.tensors)
        errors.update(result.errors)
        numbers.update(result.numbers)
        return result.weights

    layerwise = LayerwiseCalibration(graph, windows, calibration.place, calibration.progress)
    layerwise.run(calibration_points(target.op for target in targets), visit)
    return LayerResult(errors=errors, numbers=numbers)


def report(
    calibration: CalibrationSource,
    targets: Iterable[TargetLinear],
    errors: Mapping[str, float],
    recipes: Mapping[str, str],
) -> None:
    """Tell the calibration the errors of some targets, unless it wants no report.

    `recipes` says how each was quantized, by the linear's name.
    """
    if calibration.report.extent == "off":
        return
    calibration.report.entries += [
        OpError(target.op.name, target.module, recipes[target.op.name], errors[target.op.name]) for target in targets
    ]


def describe(algorithm: str, bits: float, group: int = 0) -> str:
    """A recipe for a reader: `gptq, 4 bits, group 128`."""
    return ", ".join([algorithm, f"{bits:g} bits", *([f"group {group}"] if group else [])])


def stored_weight(target: TargetLinear, rounded: Rounded, dtype: DType) -> dict[str, Stored]:
    """What to store of a rounded weight, by the keys that `stored_linear` reads."""
    name, module = target.op.name, target.module
    tensors = {
        f"{name}.qweight": Stored(rounded.values, f"{module}.qweight", dtype),
        f"{name}.scales": Stored(rounded.scales.scale, f"{module}.scales"),
    }
    if rounded.scales.zero is not None:
        tensors[f"{name}.zeros"] = Stored(rounded.scales.zero, f"{module}.zeros", dtype)
    return tensors


def stored_linear(
    op: Op,
    b: RewriteBuilder,
    refs: Mapping[str, TensorRef],
    *,
    x: Value | None = None,
    rows: Callable[[RewriteBuilder], Value] | None = None,
) -> Value:
    """Append `op` over its stored weight.

    Args:
        op: the linear.
        b: the builder of a sweep that visits it.
        refs: where the parts of the weight are.
        x: what stands for its input, if another value.
        rows: appends factors `[N]` of the weight's rows, if there are any.
    """
    scale = b.const(data=refs[f"{op.name}.scales"], name="weight.scale")
    if rows:
        column = b.cast(rows(b), dtype=DType.f32, name="rows")
        column = b.reshape(column, shape=(*column.type.shape, 1), name="column")
        scale = b.mul(scale, column, name="weight.scale.scaled")
    values = b.const(data=refs[f"{op.name}.qweight"], name="weight.packed")
    zeros = f"{op.name}.zeros"
    zero = b.const(data=refs[zeros], name="weight.zero") if zeros in refs else None
    return dequantized_linear(op, b, values, scale, zero, x=x)
