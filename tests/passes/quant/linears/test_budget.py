"""A budget of KL divergence for quantization."""

import pytest
import torch

from compiler.errors import PassError
from compiler.passes import canonical, parse_pipeline, run_pipeline
from compiler.passes.quant import Quantize
from compiler.passes.quant.calibration.windows import window_logits
from tests.passes.quant.models import calibration, model


def _run(pipeline):
    source = calibration()
    with source.active():
        return run_pipeline(model("opt"), pipeline).graph, source


def _cost(graph):
    """The mean divergence from the model's own predictions, by torch's own definition, in nats."""
    plain = model("opt")
    windows = calibration().windows(plain)
    ours, theirs = (
        torch.cat(list(window_logits(g, windows, torch.device("cpu")))).flatten(0, 1).log_softmax(-1)
        for g in (graph, plain)
    )
    return float(torch.nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True))


def _left(source):
    return [entry for entry in source.report.entries if entry.recipe == "left as it is"]


@pytest.mark.parametrize("pipeline", ["quant=int4", "quant=fp8", "quant=smoothquant:act=static", "quant=awq:group=32"])
def test_the_rest_costs_about_the_limit_at_most(pipeline):
    whole, _ = _run(pipeline)
    budget = 0.5 * _cost(whole)
    graph, source = _run(f"{pipeline}:kl_budget={budget}")
    left = _left(source)
    assert 0 < len(left) < 24 and len(source.report.entries) == 24
    # Costs are measured for each linear alone; that they add up holds to a good part.
    assert 0 < _cost(graph) < 1.3 * budget


def test_no_cost_leaves_all_as_it_is_and_any_cost_nothing():
    graph, source = _run("quant=int8:kl_budget=0")
    assert graph.ops == model("opt").ops and len(_left(source)) == 24
    graph, source = _run("quant=int8:kl_budget=100")
    assert graph.ops == _run("quant=int8")[0].ops and not _left(source)


def test_what_costs_most_for_its_size_is_left():
    _, source = _run("quant=int4:kl_budget=0.05")
    costs = {}
    for entry in source.report.entries:
        graph, _ = _run(f"quant=int4:only={entry.module}")
        costs[entry.op] = _cost(graph) / next(
            op.operands[1].type.elements for op in model("opt").find("linear") if op.name == entry.op
        )
    left = {entry.op for entry in _left(source)}
    assert left and min(costs[name] for name in left) > max(costs[name] for name in costs.keys() - left)


def test_a_limit_needs_data():
    with pytest.raises(PassError, match="needs data to calibrate with"):
        run_pipeline(model("opt"), "quant=int8:kl_budget=0.1")


def test_the_budget_is_read_by_its_former_name() -> None:
    assert canonical(parse_pipeline("quant=int8:limit=0.1")) == "quant=int8:kl_budget=0.1"
    assert Quantize("int8", limit=0.1) == Quantize("int8", kl_budget=0.1)
