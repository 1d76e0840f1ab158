"""Sweeps, rules and what their trace says."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given

from compiler.errors import GraphError, PassError, PluginError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange, Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.matching import Match
from compiler.ir.op import Op, Value
from compiler.ir.parser import parse_graph
from compiler.ir.patterns import P, Pattern
from compiler.ir.printer import print_graph
from compiler.ir.rewrite import Replacement, RewriteBuilder, eliminate_dead, sweep
from compiler.ir.rules import Decline, Outcome, Rule, apply_rules, rule
from compiler.ir.trace import Trace
from compiler.ir.verifier import verify
from compiler.passes import run_pipeline
from tests.strategies import graphs

CHAIN = parse_graph("""
graph chain
input x: f32[4]
a from model.a:
  %.first: f32[4] = tanh(%x)
  %.second: f32[4] = relu(%.first)
  %.third: f32[4] = tanh(%.second)
output y = %a.third
""")


def ops_of(graph: Graph) -> list[str]:
    return [line.strip() for line in print_graph(graph).splitlines() if line.strip().startswith("%")]


def keep(op: Op, b: RewriteBuilder) -> None:
    return None


@given(graphs(odd=True))
def test_a_sweep_that_changes_nothing_returns_the_graph(graph: Graph) -> None:
    live = eliminate_dead(graph)
    assert sweep(live, keep, pass_name="none") is live
    assert eliminate_dead(live) is live


def test_a_replacement_takes_the_name_and_shows_the_pass() -> None:
    def visit(op: Op, b: RewriteBuilder) -> Replacement:
        if op.kind.name != "relu":
            return None
        half = b.scale(op.operands[0], factor=0.5)
        return b.scale(half, factor=2.0, name="doubled")

    swept = sweep(CHAIN, visit, pass_name="halve")
    assert ops_of(swept) == [
        "%.first: f32[4] = tanh(%x)",
        "%.second.scale: f32[4] = scale(%.first, factor=0.5)  !halve",
        "%.second: f32[4] = scale(%.second.scale, factor=2.0)  !halve",
        "%.third: f32[4] = tanh(%.second)",
    ]
    assert swept.ops[0] is CHAIN.ops[0]
    assert swept.ops[-1] is CHAIN.ops[-1]
    assert {op.origin.module for op in swept.ops} == {"model.a"}
    verify(swept)


def test_an_existing_value_can_stand_for_a_result() -> None:
    swept = sweep(CHAIN, lambda op, b: op.operands[0] if op.kind.name == "relu" else None)
    assert ops_of(swept) == ["%.first: f32[4] = tanh(%x)", "%.third: f32[4] = tanh(%.first)"]


def test_visitors_see_rewritten_operands() -> None:
    seen = []

    def visit(op: Op, b: RewriteBuilder) -> Replacement:
        producer = b.producer(op.operands[0])
        seen.append((op.name, producer.kind.name if producer else "input"))
        return op.operands[0] if op.name == "a.second" else None

    sweep(CHAIN, visit)
    assert seen == [("a.first", "input"), ("a.second", "tanh"), ("a.third", "tanh")]


def test_types_stay_unless_the_sweep_retypes() -> None:
    def visit(op: Op, b: RewriteBuilder) -> Replacement:
        return b.cast(op.operands[0], dtype=DType.f16) if op.name == "a.first" else None

    with pytest.raises(GraphError) as caught:
        sweep(CHAIN, visit, pass_name="narrow")
    assert caught.value.message == (
        "narrow replaces tanh %a.first from model.a, of type f32[4], by %a.first.cast of type f16[4]"
    )
    assert str(sweep(CHAIN, visit, retype=True).outputs["y"].type) == "f16[4]"


def test_inputs_can_be_replaced() -> None:
    swept = sweep(CHAIN, keep, retype=True, inputs={"x": Value("x", CHAIN.inputs[0].type.with_dtype(DType.bf16))})
    verify(swept)
    assert [str(value) for value in (*swept.inputs, *swept.outputs.values())] == ["%x: bf16[4]", "%a.third: bf16[4]"]


def test_an_input_can_be_given_as_its_new_type() -> None:
    wider = CHAIN.inputs[0].type.with_dim(-1, 8)
    swept = sweep(CHAIN, keep, retype=True, inputs={"x": wider})
    verify(swept)
    assert [str(value.type) for value in (*swept.inputs, *swept.outputs.values())] == ["f32[8]", "f32[8]"]


def test_blocks_are_taken_along_an_axis_in_the_order_given() -> None:
    builder = RewriteBuilder(CHAIN, "p")
    x = builder.input("w", DType.f32, 2, 6)
    builder.output("y", builder.take(x, [2, 0], axis=1, width=2))
    graph = builder.build()
    verify(graph)
    w = torch.arange(12.0).view(2, 6)
    assert torch.equal(Interpreter(graph)({"w": w})["y"], w[:, [4, 5, 0, 1]])
    with pytest.raises(GraphError, match="slice"):
        builder.take(x, [3], axis=1, width=2)


def test_what_a_pass_makes_is_marked_with_the_name_that_the_pipeline_runs_it_by() -> None:
    def by_itself(graph: Graph) -> Graph:
        return sweep(graph, lambda op, b: b.relu(op.operands[0]) if op.kind.name == "tanh" else None)

    assert by_itself(CHAIN).ops[0].origin.passes == ()
    assert {op.origin.passes for op in run_pipeline(CHAIN, [by_itself]).graph.ops} >= {("by-itself",)}


def test_an_op_that_refuses_its_operands_can_have_others() -> None:
    graph = parse_graph("""
        graph mixed
        input x: f32[4]
        input y: f32[4]
        .:
          %z: f32[4] = add(%x, %y)
        output z = %z
        """)
    inputs = {"x": Value("x", graph.inputs[0].type.with_dtype(DType.f16))}
    with pytest.raises(GraphError) as caught:
        sweep(graph, keep, retype=True, inputs=inputs)
    assert caught.value.message == (
        "add %z from the graph cannot take its new operands: "
        "add(f16[4], f32[4]): operands have different element types: f16 and f32"
    )

    def adapt(op: Op, operands: tuple[Value, ...], b: RewriteBuilder) -> list[Value]:
        return [b.cast(value, dtype=DType.f16, name=f"to_{value.name}") for value in operands]

    adapted = sweep(graph, keep, retype=True, inputs=inputs, adapt=adapt)
    verify(adapted)
    assert ops_of(adapted)[-1] == "%z: f16[4] = add(%z.to_x, %z.to_y)"


@rule(P.tanh(P.relu("x")))
def drop_relu(match: Match, b: RewriteBuilder) -> Outcome:
    return b.tanh(match["x"])


def test_a_rule_replaces_what_it_matches() -> None:
    assert drop_relu.name == "drop_relu"
    assert ops_of(apply_rules(CHAIN, [drop_relu], pass_name="drop")) == [
        "%.first: f32[4] = tanh(%x)",
        "%.third: f32[4] = tanh(%.first)  !drop",
    ]


def test_the_first_rule_that_applies_wins() -> None:
    @rule(P.tanh("x"), name="hesitate")
    def declines(match: Match, b: RewriteBuilder) -> Outcome:
        b.relu(b.relu(match["x"]))  # appended in vain
        return Decline("it is Sunday")

    @rule(P.tanh("x"))
    def passes(match: Match, b: RewriteBuilder) -> Outcome:
        return None

    trace = Trace()
    swept = apply_rules(CHAIN, [declines, passes, drop_relu], pass_name="drop", trace=trace)
    assert ops_of(swept) == ops_of(apply_rules(CHAIN, [drop_relu], pass_name="drop"))
    assert trace.text() == (
        "drop\n"
        "  hesitate: applied to 0 of 2\n"
        "    declined %a.first from model.a: it is Sunday\n"
        "    declined %a.third from model.a: it is Sunday\n"
        "  drop_relu: applied to 1 of 2\n"
        "    at %a.third\n"
        "  nothing to do for passes\n"
    )


def test_rules_that_decline_leave_the_graph_itself() -> None:
    @rule(P.tanh("x"))
    def declines(match: Match, b: RewriteBuilder) -> Outcome:
        b.tanh(match["x"])
        return Decline("no")

    assert apply_rules(CHAIN, [declines], pass_name="none") is CHAIN


def test_the_trace_shows_nearest_misses_and_what_never_occurred() -> None:
    misses = Rule("capped", P.tanh(P.relu(P.tanh(P.scale("x")))), lambda match, b: match["x"])
    absent = Rule("absent", P.softmax(P.one_of(P.add(P.matmul("x", "k"), "b"), "x")), lambda match, b: match["x"])
    small = Rule("small", P.tanh(P.gelu("x")), lambda match, b: match["x"])
    far = Rule("far", P.tanh(P.gelu(P.tanh(P.scale("x")))), lambda match, b: match["x"])
    with Trace().active() as trace:
        assert apply_rules(CHAIN, [misses, absent, small, far], pass_name="fuse") is CHAIN
    assert trace.text() == (
        "fuse\n"
        "  capped: applied to 0 of 2\n"
        "    near miss (3 of 4 ops) %a.third from model.a: expected scale, found the input %x\n"
        "  absent: met no softmax\n"
        "  small: applied to 0 of 2\n"
        "    near miss (1 of 2 ops) %a.first from model.a: expected gelu, found the input %x\n"
        "    near miss (1 of 2 ops) %a.third from model.a: expected gelu, found relu %a.second\n"
        "  far: applied to 0 of 2\n"
        "    near miss (1 of 4 ops) %a.first from model.a: expected gelu, found the input %x\n"
        "    near miss (1 of 4 ops) %a.third from model.a: expected gelu, found relu %a.second\n"
    )


def test_an_op_of_the_right_kind_that_is_otherwise_wrong_is_a_near_miss() -> None:
    graph = parse_graph("""
graph g
input x: f32[4]
.:
  %a: f32[4] = scale(%x, factor=0.5)
  %b: f32[4] = relu(%a)
  %c: f32[4] = relu(%x)
  %d: f32[4] = relu(%b)
layers.0:
  %.a: f32[4] = scale(%x, factor=0.25)
  %.b: f32[4] = relu(%.a)
layers.1:
  %.a: f32[4] = scale(%x, factor=0.25)
  %.b: f32[4] = relu(%.a)
layers.3:
  %.a: f32[4] = scale(%x, factor=2.0)
  %.b: f32[4] = relu(%.a)
output d = %d
output e = %layers.0.b
output f = %layers.1.b
output g = %layers.3.b
""")
    doubled = Rule("doubled", P.relu(P.scale("x", factor=2.0)), lambda match, b: b.relu(match["x"]))
    with Trace().active() as trace:
        apply_rules(graph, [doubled], pass_name="p")
    assert trace.text() == (
        "p\n"
        "  doubled: applied to 1 of 6\n"
        "    at %layers.3.b\n"
        "    near miss (1 of 2 ops) %b from the graph: scale %a has factor=0.5, not 2.0\n"
        "    near miss (1 of 2 ops) %layers.0..1.b from the graph: scale %layers.0.a has factor=0.25, not 2.0\n"
    )


def test_the_trace_is_short() -> None:
    b = Builder()
    x = b.input("x", DType.f32, 4)
    for i in range(8):
        b.output(f"y{i}", b.tanh(x))
    trace = Trace()
    apply_rules(b.build(), [Rule("r", P.tanh("x"), lambda m, b: Decline("no"))], pass_name="p", trace=trace)
    assert trace.text(limit=1) == (
        "p\n  r: applied to 0 of 8\n    declined %tanh from the graph: no\n    ... and 7 more\n"
    )


def halved(graph: Graph, visit: Any) -> Graph:
    """The graph on an input of half the width."""
    wide = graph.inputs[0]
    half = Value(wide.name, wide.type.with_shape(wide.type.shape[0], 4))
    return sweep(graph, visit, pass_name="half", retype=True, inputs={"x": half})


WIDE = parse_graph("""
graph wide
dim B = 1..2..4
input x: f32[B,8]
input cache: f32[B,8]
.:
  %a: f32[B,8] = relu(%x)
  %blocks: f32[B,2,4] = reshape(%a, shape=[B,2,4])
  %left: f32[B,2,1], %right: f32[B,2,3] = split(%blocks, axis=-1, sizes=[1,3])
  %next: f32[B,8] = scale(%cache, factor=2.0)
output left = %left
output right = %right
output cache = %next
""")


def test_a_visitor_gives_attributes_that_fit_new_operands() -> None:
    seen = {}

    def visit(op: Op, b: RewriteBuilder) -> Any:
        seen[op.name] = str(op.operands[0].type), str(op.results[0].type)
        if op.kind.name == "reshape":
            return b.again(op, shape=(symbol("B"), 2, 2))
        return b.again(op, sizes=(1, 1)) if op.kind.name == "split" else None

    swept = halved(WIDE, visit)
    verify(swept)
    assert {role: str(value.type) for role, value in swept.outputs.items()} == {
        "left": "f32[B,2,1]",
        "right": "f32[B,2,1]",
        "cache": "f32[B,8]",
    }
    # Operands are rewritten already, results have the types of before.
    assert seen["a"] == ("f32[B,4]", "f32[B,8]")
    assert seen["blocks"] == ("f32[B,4]", "f32[B,2,4]")
    assert [op.name for op in swept.ops] == [op.name for op in WIDE.ops]
    assert swept.producers["right"].origin.passes == ("half",)
    assert swept.producers["next"] is WIDE.producers["next"]


def test_an_op_that_is_kept_must_take_its_new_operands() -> None:
    with pytest.raises(GraphError, match=r"^reshape %blocks from the graph cannot take its new operands: reshape\("):
        halved(WIDE, keep)


def test_a_cache_goes_with_its_next_state() -> None:
    swept = sweep(WIDE, keep, inputs={"cache": None})
    verify(swept)
    assert [value.name for value in swept.inputs] == ["x"]
    assert list(swept.outputs) == ["left", "right"]
    assert "next" not in swept.values
    with pytest.raises(GraphError, match=r"^relu %a from the graph still uses the cache %x, which goes$"):
        sweep(WIDE, keep, inputs={"x": None})


def test_mistakes_in_rules() -> None:
    with pytest.raises(PassError, match=r"the rule 'any' starts from any value; the root of a rule's pattern must be"):
        Rule("any", P.any("x"), lambda match, b: match["x"])
    with pytest.raises(PluginError) as caught:
        apply_rules(CHAIN, [Rule("wrong", P.tanh("x"), lambda m, b: m.root)], pass_name="p")  # type: ignore[arg-type, return-value]
    assert caught.value.message.startswith("the rule 'wrong' at tanh %a.first from model.a returned Op(")
    with pytest.raises(PluginError) as broken:
        apply_rules(CHAIN, [Rule("broken", P.tanh("x"), lambda m, b: [1][2])], pass_name="p")  # type: ignore[arg-type, return-value]
    assert re.fullmatch(
        r"the rule 'broken' at tanh %a\.first from model\.a fails: IndexError: list index out of range "
        r"\(tests/ir/test_rewrite\.py, line \d+\)",
        broken.value.message,
    )
    with pytest.raises(GraphError) as missing:
        apply_rules(CHAIN, [Rule("typo", P.tanh("scores"), lambda m, b: m["score"])], pass_name="p")
    assert "fails: the match binds no 'score'; did you mean 'scores'? (tests/ir/test_rewrite" in missing.value.message


def test_rules_are_tried_at_ops_of_their_roots_kind_only(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    b.dims = {"B": DimRange(1, 2, 4)}
    x = b.input("x", DType.f32, symbol("B"), 4)
    for i in range(20):
        x = b.relu(x, name=str(i))
    b.output("y", b.tanh(x, name="last"))
    graph = b.build()
    tried: list[str] = []
    original = Pattern.match

    def match(self: Pattern, op: Op, source: RewriteBuilder) -> object:
        tried.append(op.name)
        return original(self, op, source)

    monkeypatch.setattr(Pattern, "match", match)
    rules = [Rule(kind, getattr(P, kind)("x"), lambda m, b: None) for kind in ("tanh", "softmax", "gelu")]
    assert apply_rules(graph, rules, pass_name="p") is graph
    assert tried == ["last"]
