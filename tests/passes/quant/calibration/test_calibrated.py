"""The algorithms that calibrate, as passes over whole models."""

from dataclasses import replace

import pytest
import torch

from compiler.errors import PassError
from compiler.ir.dtypes import DType
from compiler.ir.interpreter import Interpreter
from compiler.ir.rewrite import sweep
from compiler.passes import run_pipeline
from compiler.passes.quant.caches.scales import cache_scales
from compiler.passes.quant.calibration.windows import step_inputs
from tests.passes.quant.models import FAMILIES, calibration, model

PIPELINES = (
    "quant=awq",
    "quant=gptq",
    "quant=gptq:bits=3:group=32",
    "quant=gptq:bits=8:order=false",
    "quant=smoothquant",
    "quant=smoothquant:act=static:search=true",
    "quant=int8:act=static",
    "quant=awq:bits=3:group=32",
    "quant=fp8",
    "quant=fp8:round=gptq",
    "quant=fp8:round=gptq:act=token:weights=channel",
    "quant=auto:bits=6",
)


def _run(graph, pipeline, **settings):
    source = calibration(**settings)
    with source.active():
        return run_pipeline(graph, pipeline).graph, source


def _logits(graph):
    return Interpreter(graph)(step_inputs(graph, calibration().windows(graph)))["logits"].float()


def _error(graph, reference):
    return float((_logits(graph) - reference).norm() / reference.norm())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_logits_stay_near(family, pipeline):
    graph = model(family)
    quantized, source = _run(graph, pipeline)
    limit = 0.5 if "bits=3" in pipeline else 0.25
    assert 0 < _error(quantized, _logits(graph)) < limit
    linears = [op.name for op in graph.find("linear") if not op.name.startswith("lm_head")]
    assert sorted(entry.op for entry in source.report.entries) == sorted(linears)
    assert all(0 < entry.error < limit for entry in source.report.entries)


@pytest.mark.parametrize(
    ("pipeline", "nearest"),
    [
        ("quant=awq:group=32", "quant=int4:group=32"),
        ("quant=gptq:group=32", "quant=int4:group=32"),
        ("quant=awq:bits=3:group=32", "quant=int3:group=32"),
        ("quant=gptq:bits=3:group=32", "quant=int3:group=32"),
        ("quant=fp8:act=off:round=gptq", "quant=fp8:act=off"),
    ],
)
def test_calibrated_weights_lose_less_than_the_nearest(pipeline, nearest):
    graph = model("gptneox")
    assert _run(graph, pipeline)[1].report.mean < 0.9 * _run(graph, nearest)[1].report.mean


def test_inputs_are_reported_as_they_are_rounded():
    """A float keeps three bits of mantissa, an integer of a token's scale seven for the largest."""
    errors = {name: _run(model("mpt"), f"quant={name}:act=token")[1].report.mean for name in ("int8", "fp8")}
    assert errors["fp8"] > 1.5 * errors["int8"]


def test_report_has_the_error_of_each_op():
    _, source = _run(model("opt"), "quant=awq:only=layers.0")
    assert [entry.op for entry in source.report.entries] == [
        f"layers.0.{name}" for name in ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.up", "mlp.down")
    ]
    assert source.report.entries[0].module == "model.decoder.layers.0.self_attn.q_proj"
    assert source.report.entries[0].recipe == "awq, 4 bits, group 128"


@pytest.mark.parametrize(
    ("pipeline", "recipe"),
    [
        ("quant=int3:group=32", "int3, 3 bits, group 32"),
        ("quant=int8:act=token", "int8, 8 bits, token activations"),
        ("quant=fp8", "fp8, 8 bits, static activations"),
    ],
)
def test_report_says_how_an_op_was_rounded(pipeline, recipe):
    _, source = _run(model("opt"), pipeline)
    assert {entry.recipe for entry in source.report.entries} == {recipe}


def test_rounding_is_reported_where_there_is_data_to_measure_it():
    _, source = _run(model("opt"), "quant=int4:group=32")
    assert len(source.report.entries) == 24 and 0.01 < source.report.mean < 0.3
    run_pipeline(model("opt"), "quant=int4:group=32")  # and needs none
    _, source = _run(model("opt"), "quant=int4:group=32", samples=1)
    assert len(source.report.entries) == 24


def test_two_recipes_share_a_model():
    graph, source = _run(model("opt"), "quant=gptq:only=*.fc1+*.fc2,quant=int8:act=static")
    types = [op.operands[0].type.dtype for op in graph.find("dequantize") if "weight" in op.name]
    assert types.count(DType.i4) == 8 and types.count(DType.i8) == 16
    assert len(source.report.entries) == 24


def test_results_are_found_again(monkeypatch):
    first, told = _run(model("mpt"), "quant=awq")
    monkeypatch.setattr("compiler.passes.quant.calibration.layerwise.LayerwiseCalibration.run", None)  # it would fail
    limits = replace(model("mpt"), dims=model("mpt").dims | {"B": model("mpt").dims["B"]._replace(max=64)})
    again, source = _run(limits, "quant=awq")
    assert again.ops == first.ops and source.report == told.report


def test_other_texts_and_settings_are_other_results():
    first = _run(model("mpt"), "quant=gptq")[0]
    for pipeline, settings in (("quant=gptq:damping=0.1", {}), ("quant=gptq", {"samples": 3})):
        assert _run(model("mpt"), pipeline, **settings)[0].ops != first.ops


@pytest.mark.parametrize(("bits", "mean"), [(4.5, 4.5), (6.0, 6.0), (12.0, 12.0)])
def test_auto_spends_its_budget(bits, mean):
    graph = _run(model("opt"), f"quant=auto:bits={bits}")[0]
    spent = elements = 0
    for op in graph.find("linear"):
        if op.name.startswith("lm_head"):
            continue
        weight = op.operands[1]
        elements += weight.type.elements
        producer = graph.producers[weight.name]
        if producer.kind.name == "dequantize":
            codes, scales = producer.operands[:2]
            spent += codes.type.elements * codes.type.dtype.bits + scales.type.elements * 32
        else:
            spent += weight.type.elements * 16
    assert bits - 0.75 < spent / elements <= bits


def test_auto_needs_a_budget_that_something_fits_in():
    with pytest.raises(PassError, match="in 4 bits on average") as caught:
        _run(model("opt"), "quant=auto:bits=4")
    assert "give bits=4.2" in str(caught.value)


def test_cache_scales_are_the_largest_values_of_heads():
    graph = model("gptj")
    source = calibration()
    scales = cache_scales(graph, source)
    caches = Interpreter(graph)(step_inputs(graph, source.windows(graph)))
    assert sorted(scales) == sorted(graph.states())
    for name, scale in scales.items():
        torch.testing.assert_close(scale, caches[name].float().abs().amax((0, 2, 3)), rtol=1e-3, atol=1e-3)


def test_graph_without_caches_has_no_scales():
    graph = replace(model("gptj"), outputs=type(model("gptj").outputs)({"logits": model("gptj").outputs["logits"]}))
    with pytest.raises(PassError, match="no caches"):
        cache_scales(graph, calibration())


def _damaged(graph, kind, name, value):
    """The graph with `value` added to the first element of a weight."""

    def visit(op, b):
        if op.name != name:
            return None
        _, *rest = op.operands[1:]
        weight = op.operands[1]
        width = weight.type.sizes({})[-1]
        ends = (value, *(1.0,) * (width - 1))
        scale = b.literal(dtype=weight.type.dtype, shape=(width,), values=ends)
        return b.emit(op.kind, (op.operands[0], b.mul(weight, scale), *rest), op.attrs)

    return sweep(graph, visit)


@pytest.mark.parametrize("pipeline", ["quant=awq", "quant=gptq", "quant=smoothquant", "quant=fp8", "quant=auto"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_no_number_is_named(pipeline, value):
    graph = _damaged(model("opt"), "linear", "layers.1.mlp.up", value)
    with pytest.raises(PassError, match=r"the weight of model\.decoder\.layers\.1\.fc1 holds NaN") as caught:
        _run(graph, pipeline)
    assert "skip=model.decoder.layers.1.fc1" in str(caught.value)


@pytest.mark.parametrize("pipeline", ["quant=awq", "quant=gptq", "quant=smoothquant", "quant=fp8", "quant=auto"])
def test_input_that_is_no_number_is_named(pipeline):
    graph = _damaged(model("opt"), "layer_norm", "layers.1.ln2.norm", float("nan"))
    with pytest.raises(PassError, match=r"the input of model\.decoder\.layers\.1\.fc1 is NaN") as caught:
        _run(graph, pipeline)
    assert "bfloat16" in str(caught.value)


def test_calibrating_pass_without_data_says_so():
    with pytest.raises(PassError, match="needs data to calibrate with"):
        run_pipeline(model("opt"), "quant=awq")
