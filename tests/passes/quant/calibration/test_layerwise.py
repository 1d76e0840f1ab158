"""Running layer by layer against running whole."""

import pytest
import torch

from compiler.ir.interpreter import Interpreter
from compiler.passes.quant.calibration.layerwise import LayerwiseCalibration
from compiler.passes.quant.calibration.points import calibration_points
from compiler.passes.quant.calibration.windows import step_inputs
from tests.passes.quant.models import FAMILIES, calibration, model


def _windows(graph):
    return calibration(samples=11).windows(graph)  # two batches, of 8 and 3


def _whole(graph, windows, names):
    """The values of some linears' inputs, by running the graph on one window after the other."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def observe(op, operands, results):
        if op.name in seen:
            seen[op.name].append(operands[0])

    run = Interpreter(graph, observers=[observe])
    for row in windows:
        run(step_inputs(graph, row[None]))
    return {name: torch.cat(rows) for name, rows in seen.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_those_of_the_whole_model(family):
    graph = model(family)
    windows = _windows(graph)
    linears = [op for op in graph.find("linear") if not op.name.startswith("lm_head")]
    expected = _whole(graph, windows, [op.name for op in linears])
    order = []

    def visit(view):
        for op in view.point.ops:
            order.append(op.name)
            torch.testing.assert_close(torch.cat(list(view.inputs)), expected[op.name], rtol=2e-2, atol=2e-2)

    LayerwiseCalibration(graph, windows, torch.device("cpu")).run(calibration_points(linears), visit)
    assert sorted(order) == sorted(op.name for op in linears)


def test_replaced_weights_are_what_later_layers_see():
    graph = model("opt")
    windows = _windows(graph)
    linears = [op for op in graph.find("linear") if op.name.startswith("layers.0.")]
    later = next(op for op in graph.find("linear") if op.name == "layers.1.attn.q")
    seen = {}

    def visit(view):
        seen.update({op.name: torch.cat(list(view.inputs)) for op in view.point.ops})
        return {name: torch.zeros_like(weight) for name, weight in view.weights.items()}

    LayerwiseCalibration(graph, windows, torch.device("cpu")).run(calibration_points([*linears, later]), visit)
    untouched = _whole(graph, windows, [later.name])[later.name]
    assert not torch.allclose(seen[later.name], untouched, atol=0.1)
    out = seen["layers.0.attn.out"]
    bias = next(op for op in linears if op.name == "layers.0.attn.v").operands[2]
    expected = Interpreter(graph.with_ops(graph.ops, {"bias": bias}))(step_inputs(graph, windows[:1]))["bias"]
    torch.testing.assert_close(out[0, 0], expected)  # values are their bias, whatever is attended to


def test_keeps_the_weights_of_one_layer_at_a_time(monkeypatch):
    graph = model("gptneox")
    read = []
    original = LayerwiseCalibration._constants

    def counted(self, values):
        found = original(self, values)
        read.append(sum(tensor.numel() for tensor in found.values()))
        return found

    monkeypatch.setattr(LayerwiseCalibration, "_constants", counted)
    linears = [op for op in graph.find("linear") if op.name.startswith("layers.")]
    LayerwiseCalibration(graph, _windows(graph), torch.device("cpu")).run(
        calibration_points(linears), lambda view: None
    )
    assert max(read) <= 1024 * 128 + 128 * 128  # the embedding is the largest; all layers have six times as much


def test_keeps_of_each_token_what_crosses_a_point(monkeypatch):
    """However many layers there are, and however many were passed."""
    graph, kept = model("gptneox"), []
    given = {value.name for value in graph.inputs}  # empty caches, which take no memory
    original = LayerwiseCalibration._show

    def counted(self, point, states, visit):
        kept.append(sum(tensor.numel() for state in states for name, tensor in state.items() if name not in given))
        original(self, point, states, visit)

    monkeypatch.setattr(LayerwiseCalibration, "_show", counted)
    linears = [op for op in graph.find("linear") if op.name.startswith("layers.")]
    windows = _windows(graph)
    LayerwiseCalibration(graph, windows, torch.device("cpu")).run(calibration_points(linears), lambda view: None)
    hidden, inner = 128, 512
    assert len(kept) == 4 * 4
    assert max(kept) <= windows.numel() * (inner + 8 * hidden)
    assert kept[4:8] == kept[8:12]  # a layer leaves nothing behind


def test_progress_counts_stops():
    graph, told = model("opt"), []
    linears = [op for op in graph.find("linear") if op.name.startswith("layers.0.")]
    calibration = LayerwiseCalibration(
        graph, _windows(graph), torch.device("cpu"), lambda done, total: told.append((done, total))
    )
    calibration.run(calibration_points(linears), lambda view: None)
    assert told == [(i, 4) for i in range(5)]  # q, k and v share a point
