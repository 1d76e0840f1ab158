"""Running a model on calibration windows layer by layer.

Calibration stops before each group of linears over one input, a *calibration point*, shows the inputs of all windows,
and goes on. Between two points it runs one batch of windows after the other, so that what it keeps is the weights
between two points, and of each window the values that cross a point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.analysis import constant_values, last_uses
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter, Observer, bind_inputs
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import eliminate_dead
from compiler.ir.step import TOKEN_IDS
from compiler.passes.quant.calibration.points import CalibrationPoint
from compiler.passes.quant.calibration.segments import needed_ops, split_ops, used_names
from compiler.passes.quant.calibration.windows import batch_size, memory_for, step_inputs
from compiler.progress import Report, unheard


@dataclass(frozen=True)
class BatchView:
    """What layer-wise calibration shows at a calibration point.

    Attributes:
        point: the calibration point.
        inputs: the input of its linears, one tensor per batch, on the host.
        weights: the weights of its linears in the graph's type, by the linear's name, on the device.
        device: where to compute.
    """

    point: CalibrationPoint
    inputs: Sequence[Tensor]
    weights: Mapping[str, Tensor]
    device: torch.device


Visit = Callable[[BatchView], Mapping[str, Tensor] | None]
"""Called at each calibration point; returns weights to go on with, by the linear's name, or None to leave them."""


class LayerwiseCalibration:
    """One run of a graph over windows.

    Args:
        graph: the graph of a model, before its steps are cut or sharded.
        windows: token ids, int32 `[samples, length]`.
        device: where to compute.
        progress: called as `progress(done, total)`, in points; in batches if there are no points.
        observers: as those of the interpreter, called for every batch.
    """

    def __init__(
        self,
        graph: Graph,
        windows: Tensor,
        device: torch.device,
        progress: Report = unheard,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.graph = graph
        self.device = device
        self.progress = progress
        self.observers = observers
        self.batches = [step_inputs(graph, ids) for ids in windows.split(batch_size(graph, windows.shape[1]))]
        self.constant = constant_values(graph)
        self.replaced: dict[str, Tensor] = {}

    @torch.no_grad()
    def run(self, points: Sequence[CalibrationPoint], visit: Visit, until: Sequence[Value] = ()) -> None:
        """Visit the calibration points, in the order of the graph, and run on until the values in `until` are known."""
        wanted = {value.name: value for value in (*(point.x for point in points), *until)}
        alive = eliminate_dead(self.graph.with_ops(self.graph.ops, wanted))
        ops = [op for op in alive.ops if op.results[0].name not in self.constant]
        later, plain = split_ops(ops)
        places = {value.name: i + 1 for i, op in enumerate(later) for value in op.results}
        ordered = sorted(points, key=lambda point: places.get(point.x.name, 0))
        cuts = [places.get(point.x.name, 0) for point in ordered]
        states: list[dict[str, Tensor]] = [{} for _ in self.batches]
        start = 0
        for number, cut in enumerate([*cuts, len(later)]):
            kept = {point.x.name for point in ordered[number:]} | used_names(later[cut:]) - plain.keys()
            self._advance(later[start:cut], plain, states, kept, unheard if ordered else self.progress)
            start = cut
            if ordered:
                self.progress(number, len(ordered))
            if number < len(ordered):
                self._show(ordered[number], states, visit)

    def _advance(
        self, ops: Sequence[Op], plain: Mapping[str, Op], states: list[dict[str, Tensor]], kept: set[str], told: Report
    ) -> None:
        """Run some ops on every batch; of the values, those in `kept` stay. Calls `told` after each batch."""
        ops = [*needed_ops(ops, plain), *ops]
        segment = self.graph.with_ops(tuple(ops), {})
        dead_after = last_uses(segment, keep=kept | {value.name for value in self.graph.inputs})
        interpreter = Interpreter(segment, device=self.device)
        constants = self._constants(value for op in ops for value in op.operands)
        for i, inputs in enumerate(self.batches):
            sizes = bind_inputs(self.graph, inputs)
            values = {name: tensor.to(self.device) for name, tensor in {**inputs, **states[i]}.items()}
            values.update(constants)
            for op, dead in zip(ops, dead_after, strict=True):
                operands = self._operands(op, values)
                with memory_for(*inputs[TOKEN_IDS].shape):
                    results = interpreter.evaluate(op, operands, sizes)
                values.update((value.name, tensor) for value, tensor in zip(op.results, results, strict=True))
                for observer in self.observers:
                    observer(op, operands, results)
                for name in dead:
                    values.pop(name, None)
            states[i] = {name: values[name].cpu() for name in kept & values.keys() - self.constant}
            told(i + 1, len(self.batches))
        for op in ops:
            self.replaced.pop(op.name, None)

    def _operands(self, op: Op, values: Mapping[str, Tensor]) -> list[Tensor]:
        operands = [values[value.name] for value in op.operands]
        if op.name in self.replaced:
            operands[1] = self.replaced[op.name]
        return operands

    def _show(self, point: CalibrationPoint, states: Sequence[Mapping[str, Tensor]], visit: Visit) -> None:
        weights = self._constants(op.operands[1] for op in point.ops)
        shown = {op.name: weights[op.operands[1].name] for op in point.ops}
        replaced = visit(BatchView(point, [state[point.x.name] for state in states], shown, self.device))
        for op in point.ops:
            if replaced and op.name in replaced:
                self.replaced[op.name] = replaced[op.name].to(shown[op.name])

    def _constants(self, values: Iterable[Value]) -> dict[str, Tensor]:
        """Those of the values that are constant."""
        wanted = {value.name: value for value in values if value.name in self.constant}
        plan = eliminate_dead(self.graph.with_ops(self.graph.ops, wanted))
        interpreter = Interpreter(plan, device=self.device)
        known: dict[str, Tensor] = {}
        for op, dead in zip(plan.ops, last_uses(plan), strict=True):
            results = interpreter.evaluate(op, [known[value.name] for value in op.operands], {})
            known.update((value.name, tensor) for value, tensor in zip(op.results, results, strict=True))
            for name in dead:
                del known[name]
        return known
