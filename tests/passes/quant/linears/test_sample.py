"""Reports of the errors of what needs no data: full, quick and off."""

import pytest

from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.passes import run_pipeline
from compiler.passes.quant.calibration.source import CalibrationSource
from compiler.passes.quant.linears import sample
from compiler.passes.quant.linears.sample import quick_sample
from compiler.passes.quant.linears.targets import targets
from compiler.passes.quant.recipes.nearest import Int8
from tests.passes.quant.models import calibration, model


def deep(*, layers=64, width=1024):
    """Layers of two linears over one input and one over theirs, of 3 M weights a layer, and a head."""
    b = Builder("deep")
    b.dims["B"] = DimRange(1, 2, 4)
    x = b.input("x", DType.f32, symbol("B"), width)

    def linear(name, x):
        weight = b.random(key=f"{name}.weight", dtype=DType.f32, shape=(width, width), name="weight")
        return b.linear(x, weight, name="out")

    for i in range(layers):
        parts = []
        for module in ("left", "right"):
            with b.scope(f"layers.{i}.{module}", f"layers.{i}.{module}"):
                parts.append(linear(f"layers.{i}.{module}", x))
        with b.scope(f"layers.{i}.out", f"layers.{i}.out"):
            x = linear(f"layers.{i}.out", b.add(*parts, name="sum"))
    with b.scope("lm_head", "lm_head"):
        b.output("logits", linear("lm_head", x))
    return b.build()


def _sampled(graph, **options):
    return [target.op.name for target in quick_sample(graph, targets(graph, Int8(**options)))]


def test_a_quick_report_measures_the_first_linears_within_a_part_of_the_weights():
    # 193 weights of 2^20 elements in all; a 24th of them, 8.04, ends after the first linears of the third layer.
    names = [f"layers.{i}.{module}.out" for i in range(3) for module in ("left", "right", "out")]
    assert _sampled(deep()) == names[:-1]


def test_linears_over_one_input_are_measured_together():
    """Two of the first three linears would fit."""
    assert _sampled(deep(layers=11, width=2048)) == ["layers.0.left.out", "layers.0.right.out"]


def test_the_first_linears_may_lie_within_a_twelfth_and_no_further():
    graph = deep()
    assert _sampled(graph, only=("layers.4",)) == ["layers.4.left.out", "layers.4.right.out"]
    assert _sampled(graph, only=("layers.5",)) == []


def test_everything_is_measured_in_a_small_model():
    graph = deep(layers=4, width=64)
    assert len(_sampled(graph)) == 12


@pytest.fixture
def _large(monkeypatch):
    """Small models count as large ones, in which a tenth of the weights may be passed."""
    monkeypatch.setattr(sample, "_SMALL", 0)
    monkeypatch.setattr(sample, "_PART", 0.1)


def _report(extent, recipe="int8", **settings):
    source = calibration(samples=8, **settings)
    source.report.extent = extent
    with source.active():
        graph = run_pipeline(model("gptneox"), f"quant={recipe}").graph
    return source, graph


@pytest.mark.usefixtures("_large")
def test_a_quick_report_says_what_it_measured():
    source, _ = _report("quick")
    (said,) = source.report.samples
    assert 0 < said.measured == len(source.report.entries) < said.quantized == 24
    assert (said.recipe, said.windows, said.tokens) == ("int8, 8 bits", 4, 16)
    assert source.report.entries[0].op == "layers.0.attn.q"
    assert all(1e-4 < entry.error < 0.05 for entry in source.report.entries)


@pytest.mark.usefixtures("_large")
def test_a_quick_report_has_nearly_the_errors_of_a_full_one():
    quick, full = (
        {entry.op: entry.error for entry in _report(extent, "int4:group=64")[0].report.entries}
        for extent in ("quick", "full")
    )
    assert len(full) == 24
    assert all(abs(error / full[op] - 1) < 0.5 for op, error in quick.items())


def test_without_a_report_nothing_is_calibrated():
    source, graph = _report("off")
    assert not source.used and not source.report.entries and not source.report.samples
    assert graph.ops == _report("full")[1].ops


def test_the_report_changes_nothing_of_what_calibrates():
    settings = {"recipe": "int8:act=static:only=layers.0"}
    off, graph = _report("off", **settings)
    quick, other = _report("quick", **settings)
    assert graph.ops == other.ops
    assert not off.report.entries and len(quick.report.entries) == 6 and not quick.report.samples


def test_long_texts_are_read_in_part():
    read = []

    def encode(text):
        read.append(len(text))
        return [1] * (len(text) // 2)

    source = CalibrationSource(encode, ["a b c d " * 100_000], device="cpu")
    with source.active():
        run_pipeline(model("opt"), "quant=int8")
    assert source.used and source.report.entries
    assert max(read) <= 4 * 16 * 64
