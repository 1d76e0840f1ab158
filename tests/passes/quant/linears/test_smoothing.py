"""Smoothing changes nothing but where numbers are."""

import pytest
import torch

from compiler.ir.dtypes import DType
from compiler.ir.interpreter import Interpreter
from compiler.ir.verifier import verify
from compiler.passes import run_pipeline
from compiler.passes.quant.calibration.points import calibration_points
from compiler.passes.quant.calibration.windows import step_inputs
from compiler.passes.quant.linears.smoothing import DivisionPlace, find_places, smooth
from tests.passes.quant.models import FAMILIES, calibration, model


def _linears(graph):
    return calibration_points(op for op in graph.find("linear") if op.name.startswith("layers."))


def _scales(points):
    def maker(point, seed):
        width = point.x.type.shape[-1]
        values = (torch.rand(width, generator=torch.Generator().manual_seed(seed)) * 4 + 0.1).tolist()
        return lambda b: b.literal(dtype=DType.f16, shape=(width,), values=tuple(values))

    return {point.x.name: maker(point, seed) for seed, point in enumerate(points)}


def _logits(graph):
    inputs = step_inputs(graph, calibration().windows(graph))
    return Interpreter(graph, accumulate=torch.float64, exact=True)(inputs)["logits"]


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_changes_in_real_numbers(family):
    graph = model(family)
    points = _linears(graph)
    smoothed = smooth(graph, points, _scales(points))
    verify(smoothed)
    assert smoothed != graph
    torch.testing.assert_close(_logits(smoothed), _logits(graph), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_graph_equals_the_unfolded_one(family):
    graph = model(family)
    points = _linears(graph)
    folded = smooth(graph, points, _scales(points))
    unfolded = smooth(graph, points, _scales(points), {point.x.name: DivisionPlace("mul") for point in points})
    added = len(list(unfolded.find("mul"))) - len(list(graph.find("mul")))
    assert added == len(points)
    torch.testing.assert_close(_logits(folded), _logits(unfolded), rtol=1e-9, atol=1e-9)


def test_places_of_a_layer():
    def places(family):
        graph = model(family)
        found = find_places(graph, _linears(graph))
        return {name: (place.kind, place.op) for name, place in found.items() if name.startswith("layers.0.")}

    assert places("opt") == {
        "layers.0.ln1.norm": ("norm", "layers.0.ln1.norm"),
        "layers.0.attn.context.merged": ("rows", "layers.0.attn.v"),
        "layers.0.ln2.norm": ("norm", "layers.0.ln2.norm"),
        "layers.0.mlp.act": ("rows", "layers.0.mlp.up"),  # through a relu
    }
    assert places("gptneox")["layers.0.mlp.act"] == ("mul", "")  # a gelu does not commute with scales
    assert places("gptj")["layers.0.ln1.norm"] == ("norm", "layers.0.ln1.norm")  # attention and mlp share it


def test_input_that_others_read_is_multiplied():
    graph = model("gptj")
    without_mlp = calibration_points(op for op in graph.find("linear") if op.name.startswith("layers.0.attn."))
    assert find_places(graph, without_mlp)["layers.0.ln1.norm"] == DivisionPlace("mul")


def test_linear_that_is_quantized_already_absorbs_nothing():
    graph = run_pipeline(model("opt"), "quant=int8:only=v_proj").graph
    out = calibration_points(op for op in graph.find("linear") if op.name == "layers.0.attn.out")
    assert find_places(graph, out)["layers.0.attn.context.merged"] == DivisionPlace("mul")
