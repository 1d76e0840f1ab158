"""What is declared of TensorRT is so, for a spread of cases; `benchmarks/support_sweep.py` tries all of them."""

from __future__ import annotations

from collections import defaultdict

import pytest

from benchmarks.support_sweep import KINDS, Outcome, declared, markdown, rows, rows_of
from compiler.backend_trt.emission import rule_of
from compiler.backend_trt.support.check import require_support, unsupported
from compiler.backend_trt.support.declared import SUPPORT
from compiler.errors import GraphError, TargetError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.specialize import bind_dims
from tests.backend_trt.build_checks import BuildResult, build_and_compare
from tests.backend_trt.cases.case_builder import Case
from tests.backend_trt.cases.every import every_case
from tests.paths import DOCS

PAGE = DOCS / "support.md"
RENEW = "renew the rows of what changed: python -m benchmarks.support_sweep --kind NAME --write docs/support.md"
PER_TYPE = 2
TELLING = {
    "attention f16 D=100 B=1 S=32 C=128",
    "attention f32 B=2 S=0 C=7",
    "attention f32 B=2 S=5 C=0",
    "attention f32 D=16 E=8",
    "clamp i32 -inf..1.0 [6]",
    "concat i8 [2,8] literal[3,8]",
    "embedding f16 ids of i8",
    "iota i32 size 2*S",
    "kv_update f16 B=2 S=5 C=0",
    "kv_update f16 of a computed cache",
    "kv_update f16 not an output",
    "kv_update f16 twice",
    "linear f16 [8] weight",
    "linear f32 [2,3,0] weight[5,0]",
    "reshape f32 [B,0] to [0,B]",
    "reshape f32 [B,4] to [1,2,1,2,B,1,1,1,1]",
    "rotary f16 D=8 half=0",
    "softmax f32 [6] axis 0",
}


def spread():
    """A few cases for each kind and type, and those that tell something of their own, by kind."""
    groups = defaultdict(list)
    for case in every_case():
        groups[case.kind, case.dtype].append(case)
    chosen: dict[str, list[Case]] = defaultdict(list)
    for (kind, _), cases in groups.items():
        step = len(cases) // PER_TYPE or 1
        chosen[kind] += [c for i, c in enumerate(cases) if i % step == 0 or f"{kind} {c.dtype} {c.label}" in TELLING]
    return chosen


SPREAD = spread()


@pytest.mark.parametrize("kind", SPREAD)
def test_it_builds_exactly_where_declared(kind):
    wrong, tried = {}, 0
    for case in SPREAD[kind]:
        try:
            graph, made = case.graph()
        except GraphError:
            continue
        tried += 1
        mismatch = build_and_compare(graph, made.weights, made.values).mismatch(graph)
        if mismatch:
            wrong[f"{case.dtype} {case.label}"] = mismatch
    assert tried
    assert not wrong


def test_the_telling_cases_are_among_the_chosen():
    assert {f"{kind} {c.dtype} {c.label}" for kind, cases in SPREAD.items() for c in cases} >= TELLING


def test_all_that_is_declared_has_a_rule():
    assert all(rule_of(kind) for kind in SUPPORT)


def test_a_mismatch_is_seen_both_ways():
    good, bad = graph_of(lambda b, x: b.relu(x)), graph_of(lambda b, x: b.softmax(b.reshape(x, shape=(8,)), axis=0), 8)
    assert not BuildResult(True).mismatch(good)
    assert "does not build" in BuildResult(False, "no kernel").mismatch(good)
    assert "it builds" in BuildResult(True).mismatch(bad)
    assert not BuildResult(False, "no kernel").mismatch(bad)


def graph_of(make, *shape, dtype=DType.f32):
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4)}
    x = b.input("x", dtype, *(shape or (symbol("B"), 8)))
    with b.scope("layers.0", "model.layers.0"):
        b.output("y", make(b, x))
    return b.build()


def test_the_report_names_every_op_its_origin_what_is_missing_and_the_mend():
    def make(b, x):
        flat = b.softmax(b.reshape(x, shape=(8,), name="row"), axis=0, name="odds")
        return b.reshape(b.relu(b.cast(flat, dtype=DType.f64, name="wide")), shape=(1,) * 8 + (8,))

    graph = graph_of(make, 1, 8)
    with pytest.raises(TargetError) as caught:
        require_support(graph)
    report = caught.value
    assert "softmax %layers.0.odds from model.layers.0: it takes tensors of two dims or more" in report.message
    assert "cast %layers.0.wide from model.layers.0: %layers.0.wide is f64[8]" in report.message
    assert "4 of the graph's 5 ops" in report.message
    assert "reshape the operand to [1, N]" in str(report.hint)


def test_the_report_is_about_the_sizes_of_a_plan():
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4), "C": DimRange(1, 2, 4), "S": DimRange(1, 1, 4)}
    batch, capacity, length = symbol("B"), symbol("C"), symbol("S")
    cache, new = b.input("cache", DType.f16, batch, 2, capacity, 8), b.input("new", DType.f16, batch, 2, length, 8)
    at, count = b.input("at", DType.i32, batch), b.input("count", DType.i32, batch)
    b.output("cache", b.kv_update(cache, new, at, count))
    graph = b.build()
    assert "capacity must be fixed" in str(unsupported(graph)[0])
    assert not unsupported(bind_dims(graph, {"B": 2, "C": 4, "S": 4}))
    assert unsupported(bind_dims(graph, {"B": 2, "C": 4, "S": 5}))


def test_an_output_without_an_op_is_reported():
    found = unsupported(graph_of(lambda b, x: x, dtype=DType.f64))
    assert [item.where for item in found] == ["output y"]


def test_the_page_is_of_what_is_declared_and_has_all_kinds_of_case():
    page = PAGE.read_text(encoding="utf-8")
    found = rows_of(page)
    assert {kind: row[1:3] for kind, row in found.items()} == {kind: declared(kind) for kind in KINDS}, RENEW
    assert markdown(found) == page, RENEW


def test_a_kind_that_is_swept_alone_changes_its_row_only():
    before = rows_of(PAGE.read_text(encoding="utf-8"))
    swept = [Outcome("relu f32 a", "relu", "built"), Outcome("relu f32 b", "relu", "refused")]
    after = rows_of(markdown({**before, **rows(swept)}))
    assert list(after) == list(before)
    assert after == {**before, "relu": ("relu", *declared("relu"), "1", "1", "0")}
