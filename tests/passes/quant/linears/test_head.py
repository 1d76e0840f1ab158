"""The option `head` of `quant`, which all algorithms have."""

import pytest
import torch

from compiler.errors import PassError
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.interpreter import Interpreter
from compiler.ir.mesh_weights import weight_report
from compiler.passes import run_pipeline
from compiler.passes.quant import Quantize
from compiler.passes.quant.algorithms.scheme import IntegerScheme
from compiler.passes.quant.calibration.windows import step_inputs
from compiler.passes.quant.linears.targets import head_of
from compiler.passes.quant.recipe import RECIPES
from tests.passes.quant.models import FAMILIES, calibration, model


def head(graph):
    """The linear that makes the logits."""
    name = head_of(graph)
    assert name is not None
    return graph.producers[name]


def head_weight(graph):
    """What makes the head's weight, and the types of its operands."""
    made = graph.producers[head(graph).operands[1].name]
    return made.kind.name, [str(value.type) for value in made.operands]


def logits_and_weights(graph):
    seen = {}
    observe = [lambda op, _, results: seen.update({op.name: results[0]})]
    found = Interpreter(graph, observers=observe)(step_inputs(graph, calibration().windows(graph)))
    return found["logits"], seen


@pytest.mark.parametrize("name", RECIPES)
def test_every_algorithm_leaves_the_head_to_the_option(name):
    graph = model("gptneox")
    assert head_weight(run_pipeline(graph, f"quant={name}", dry_run=True).graph)[0] != "dequantize"
    found = run_pipeline(graph, f"quant={name}:head=int8", dry_run=True).graph
    assert head_weight(found) == ("dequantize", ["i8[1024,128]", "f32[1024,1]"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_of_the_head_are_the_nearest_and_the_embedding_stays(family):
    source = calibration(samples=1)
    with source.active():
        graph = run_pipeline(model(family), "quant=int4:group=32:head=int8").graph
    _, seen = logits_and_weights(graph)
    linear = head(graph)
    before = model(family)
    _, plain = logits_and_weights(before)
    weight = plain[before.producers[linear.name].operands[1].name].float()
    found = seen[linear.operands[1].name].float()
    step = IntegerScheme(8).nearest(weight).scales.scale
    # Half a step, and what rounding the product with the scale to 16 bits costs.
    assert ((found - weight).abs() <= 0.501 * step + 2**-10 * weight.abs()).all() and not torch.equal(found, weight)
    for op in graph.find("embedding"):
        assert graph.producers[op.operands[0].name].kind.name != "dequantize"
    assert [entry.recipe for entry in source.report.entries if entry.op == linear.name] == ["int8, 8 bits"]


def test_the_budget_is_not_for_the_head():
    with calibration(samples=1).active():
        graph = run_pipeline(model("opt"), "quant=int8:kl_budget=0:head=int8").graph
    assert [op.name for op in graph.find("dequantize")] == [head(graph).operands[1].name]


def test_ranks_split_the_weights_and_scales_of_the_head():
    totals = {
        head: weight_report(
            run_pipeline(model("gptneox"), f"quant=int8:head={head},tp=2,embed=vocab", dry_run=True).graph
        ).total
        for head in ("none", "int8")
    }
    # Of 1024 x 128 weights each of two bytes has become one, and a row has a scale of four.
    assert totals["none"] - totals["int8"] == 1024 * 128 - 1024 * 4


@pytest.mark.parametrize("taken", ["only=embed_out", "only=layers.0:head=int8,quant=int4"])
def test_a_head_that_is_quantized_already_is_said(taken):
    with pytest.raises(PassError, match=r"head=int8: the head \S+ is quantized already"):
        run_pipeline(model("gptneox"), f"quant=int8:{taken}:head=int8", dry_run=True)


def test_a_graph_without_a_head_is_said():
    b = Builder("model")
    x = b.input("x", DType.f32, 2, 8)
    x = b.linear(x, b.random(key="up.weight", dtype=DType.f32, shape=(8, 8), name="up.weight"), name="up")
    b.output("hidden", x)
    with pytest.raises(PassError, match="no linear over constant weights makes the logits"):
        run_pipeline(b.build(), "quant=int8:head=int8")


def test_the_option_is_checked_and_spelt():
    assert run_pipeline(model("opt"), "quant=int8:head=int8", dry_run=True).canonical == "quant=int8:head=int8"
    assert run_pipeline(model("opt"), "quant=int8:head=none", dry_run=True).canonical == "quant=int8"
    with pytest.raises(PassError, match=r"'head' of quant is none\|int8, not int4"):
        Quantize("int8", head="int4")
