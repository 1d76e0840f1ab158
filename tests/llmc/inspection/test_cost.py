"""`llmc inspect --cost`: bounds of devices, ranks, folders of dumps, and what is said of odd requests."""

import json

import pytest

import llmc as api
from compiler.errors import RequestError
from compiler.ir.dtypes import DType
from compiler.ir.files import write_graph
from llmc.inspection.cost import cost_reports, fused_bound, one_by_one, op_bound
from llmc.step_cost import named_device, processor_of
from tests.cli.llmc_command import llmc
from tests.paths import MODELS

FORM = "merge-linears,fuse-attention,cleanup"


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    lifted = api.lift(MODELS / "opt-tiny")
    for name, passes in (("00-one", FORM), ("01-mesh", f"{FORM},tp=2,pp=2"), ("02-small", f"quant=int8,{FORM}")):
        write_graph(api.optimize(lifted, passes).graph, folder / f"{name}.ir")
    return folder


def given(name, bandwidth, flops):
    device = processor_of(name, bandwidth, flops)
    assert device is not None
    return device


def test_a_bound_is_the_larger_of_operations_and_bytes(graphs):
    device = given(None, 1e9, 1e10)
    [report] = cost_reports(graphs / "00-one.ir", batch=2, length=64)
    decode, prompt = report.steps
    total = decode.ranks[0].total
    assert decode.bound(device).memory == pytest.approx(total.least / 1e9)
    assert decode.bound(device).compute == pytest.approx(total.flops / 1e10)
    assert decode.bound(device).by == "memory"
    assert prompt.bound(device).by == "compute"
    assert fused_bound(decode.ranks[0], device) == decode.bound(device)
    apart = [op_bound(each, device).seconds for each in decode.ranks[0].ops]
    assert one_by_one(decode.ranks[0].ops, device) == pytest.approx(sum(apart))
    assert sum(apart) >= decode.bound(device).seconds


def test_ranks_of_a_stage_work_at_once_and_stages_in_turn(graphs):
    device = given(None, 1e9, 1e15)
    [report] = cost_reports(graphs / "01-mesh.ir", length=64)
    decode = report.steps[0]
    assert (decode.mesh.tp, decode.mesh.pp, len(decode.ranks)) == (2, 2, 4)
    least = [rank.total.least for rank in decode.ranks]
    assert decode.bound(device).seconds == pytest.approx((max(least[:2]) + max(least[2:])) / 1e9)


def test_peaks_are_of_the_element_type_and_of_the_next_wider_one_that_a_device_has():
    a100, h100 = named_device("a100"), named_device("H100")
    assert h100.peak(DType.f8e4m3) > h100.peak(DType.bf16) == h100.peak(DType.f16) > h100.peak(DType.f32)
    assert a100.peak(DType.f8e4m3) == a100.peak(DType.f16)
    assert a100.peak(None) == a100.peak(DType.f32)
    assert given("a100", 3e12, None).bytes_per_second == 3e12
    assert given("a100", None, 5e12).peak(DType.i8) == 5e12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h10", None, None), r"there are no figures of a device 'h10'; did you mean 'h100'\?"),
        ((None, 1e9, None), "--bandwidth says half of what a device can do"),
        ((None, None, 1e9), "--flops says half of what a device can do"),
        ((None, -1.0, 1e9), "--bandwidth is -1; it must be a positive number a second"),
    ],
)
def test_a_device_without_figures_is_refused(arguments, message):
    with pytest.raises(RequestError, match=message):
        processor_of(*arguments)


def test_a_number_below_one_is_refused(graphs):
    with pytest.raises(RequestError, match="--length is 0; it must be at least 1"):
        cost_reports(graphs / "00-one.ir", length=0)


def test_more_than_a_graph_takes_is_counted_and_said(graphs):
    notes: list[str] = []
    [report] = cost_reports(graphs / "00-one.ir", batch=9, length=64, note=notes.append)
    assert notes == [f"{graphs / '00-one.ir'} takes at most 8 sequences; it is counted for 9"]
    assert report.batch == 9


def test_the_totals_in_json_are_the_sums_of_ops_and_of_layers(graphs):
    found = json.loads(llmc("inspect", graphs / "01-mesh.ir", "--cost", "--length", 32, "--device", "l4", "--json").out)
    assert found["device"]["bytes_per_second"] == 3e11
    [graph] = found["graphs"]
    for step in graph["steps"].values():
        assert step["bound"]["seconds"] == max(step["bound"]["compute"], step["bound"]["memory"])
        for rank in step["ranks"]:
            for key in ("flops", "weights", "read", "written", "sent"):
                assert rank["total"][key] == sum(op[key] for op in rank["ops"])
                assert rank["total"][key] == sum(layer[key] for layer in rank["layers"].values())


def test_layers_that_cost_the_same_share_a_line(graphs):
    lines = llmc("inspect", graphs / "00-one.ir", "--cost", "--device", "h100").out.splitlines()
    heads = [line.split("  ")[0] for line in lines]
    assert "layers.0 to layers.3, each" in heads
    assert sum(line.startswith("in all ") for line in lines) == 2
    assert sum(line.startswith("h100 (by its data sheet, 3.35 TB/s): ") for line in lines) == 2
    by_op = llmc("inspect", graphs / "00-one.ir", "--cost", "--ops").out
    assert "layers.0.attn.out linear" in by_op
    assert "layers.1 to layers.3 as layers.0" in by_op
    assert "layers.1.attn" not in by_op


def test_a_folder_of_dumps_has_a_line_for_each_graph_and_step(graphs):
    rows = llmc("inspect", graphs, "--cost", "--length", 16).out.splitlines()[2:]
    names = [f"{graph}.ir {step}" for graph in ("00-one", "01-mesh", "02-small") for step in ("decode", "prompt")]
    assert [row.split("  ")[0].rstrip() for row in rows] == names


def test_checkpoints_and_graphs_that_are_no_steps_are_counted(tmp_path):
    result = llmc("inspect", MODELS / "mpt-tiny", "--cost", "--length", 8, "--plan", "x")
    assert "is counted after the passes that every compilation adds: merge-linears" in result.err
    assert "--plan does nothing here: costs are told alone" in result.err
    (tmp_path / "a.ir").write_text(
        "graph a\ndim N = 1..2..3\ninput x: f32[N]\n.:\n  %y: f32[N] = relu(%x)\noutput y = %y\n"
    )
    alone = llmc("inspect", tmp_path / "a.ir", "--cost", "--json")
    total = json.loads(alone.out)["graphs"][0]["steps"]["graph"]["ranks"][0]["total"]
    assert (total["flops"], total["read"], total["written"]) == (2, 8, 8)
    assert "is no step of a model: its dims have their usual sizes" in alone.err
    assert "--device does nothing here" in llmc("inspect", tmp_path / "a.ir", "--device", "h100").err
