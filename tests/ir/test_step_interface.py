"""What every step graph has, after every pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

import llmc
from compiler.errors import GraphError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.rewrite import eliminate_dead, sweep
from compiler.ir.step_interface import check_step, is_step
from compiler.ir.types import TensorType
from compiler.passes import run_pipeline
from tests.passes.checks import graph_of
from tests.paths import MODELS

FAMILIES = ["gptneox-tiny", "gptj-tiny", "opt-tiny", "mpt-tiny"]


@cache
def lifted(model: str = "opt-tiny") -> Graph:
    return llmc.lift(MODELS / model, max_batch=2, max_seq=16)


def with_outputs(graph: Graph, **outputs: str | None) -> Graph:
    """The graph with these outputs too, or without them."""
    found = {**graph.outputs, **{role: graph.value(name) for role, name in outputs.items() if name}}
    return replace(graph, outputs=FrozenDict({k: v for k, v in found.items() if outputs.get(k, k) is not None}))


def renamed(graph: Graph) -> Graph:
    return with_outputs(with_outputs(graph, scores=graph.outputs["logits"].name), logits=None)


def without(graph: Graph, name: str) -> Graph:
    """The graph without an input."""
    return replace(graph, inputs=tuple(value for value in graph.inputs if value.name != name))


def with_input(graph: Graph, name: str, *shape: object, dtype: DType = DType.i32) -> Graph:
    kept = tuple(value for value in graph.inputs if value.name != name)
    return replace(graph, inputs=(*kept, Value(name, TensorType(dtype, shape))))  # type: ignore[arg-type]


def of_integers(graph: Graph) -> Graph:
    def visit(op, b):
        return b.cast(b.linear(*op.operands), dtype=DType.i32) if op.name == graph.outputs["logits"].name else None

    return sweep(graph, visit, retype=True)


def cut(graph: Graph) -> Graph:
    def visit(op, b):
        if op.name != graph.outputs["logits"].name:
            return None
        return b.slice(b.linear(*op.operands), axis=2, start=0, size=100)

    return sweep(graph, visit, retype=True)


B, S, R = map(symbol, "BSR")
PROBLEMS: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "renamed logits": (renamed, "the output 'logits' is missing; 'scores' is there instead"),
    "lost logits": (lambda g: with_outputs(g, logits=None), "the output 'logits' is missing"),
    "integer logits": (of_integers, "the output 'logits' is i32[B,R,1024], not floating-point numbers [B,R,1024]"),
    "cut logits": (
        cut,
        "the output 'logits' is f16[B,R,100], not floating-point numbers [B,R,1024] (the fact vocab_size",
    ),
    "no next state": (
        lambda g: with_outputs(g, **{"cache.0.k": None}),
        "the cache 'cache.0.k' has no next state: there is no output of its name",
    ),
    "no cache": (
        lambda g: with_outputs(without(bare(g), "cache.0.k"), **{"cache.0.k": "logits"}),
        "the output 'cache.0.k' is the next state of no input",
    ),
    "a new input": (lambda g: with_input(g, "speed", B), "the input 'speed' is none that a step gives"),
    "a new output": (
        lambda g: with_outputs(g, hidden="layers.1.after_mlp"),
        "the output 'hidden' is none that a step gives",
    ),
    "long tokens": (
        lambda g: with_input(bare(g), "token_ids", B, S, dtype=DType.i64),
        "the input 'token_ids' is i64[B,S], not i32[B,S]",
    ),
    "no tokens": (lambda g: without(bare(g), "token_ids"), "the input 'token_ids' is missing"),
    "transposed caches": (
        lambda g: replace(
            bare(g),
            inputs=tuple(swapped(v) if v.name == "cache.0.k" else v for v in bare(g).inputs),
            outputs=FrozenDict({**bare(g).outputs, "cache.0.k": swapped(g.value("cache.0.k"))}),
        ),
        "the cache 'cache.0.k' is f16[B,C,4,32], whose dims are not those of [B,heads,C,width]",
    ),
}


def swapped(value: Value) -> Value:
    a, b, c, d = value.type.shape
    return Value(value.name, TensorType(value.type.dtype, (a, c, b, d)))


def bare(graph: Graph) -> Graph:
    """A step of the same inputs, outputs and facts that computes nothing: caches stay, and logits follow positions."""
    b = Builder("bare")
    b.inputs, b.dims, b.facts = list(graph.inputs), dict(graph.dims), dict(graph.facts)
    ones = b.literal(dtype=DType.f16, shape=(1, 1, 1024), values=(1.0,))
    row = b.reshape(b.cast(graph.value("logit_pos"), dtype=DType.f16), shape=(B, R, 1))
    b.output("logits", b.mul(row, ones, name="logits"))
    for name, (value, _) in graph.states().items():
        b.output(name, value)
    return b.build()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_pass_that_breaks_a_step_is_named(problem: str) -> None:
    change, message = PROBLEMS[problem]

    def breaks(graph: Graph) -> Graph:
        return change(graph)

    with pytest.raises(GraphError) as caught:
        run_pipeline(lifted(), [breaks])
    start = "the pass 'breaks' left a graph that is no model's step any more: "
    assert caught.value.message.startswith(start + message), caught.value.message
    assert str(caught.value.hint).startswith("a step takes token_ids i32[B,S], past_len i32[B], ")
    assert run_pipeline(lifted(), [breaks], verify=False).timings


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize(
    "passes", ["dtype=bfloat16", "tp=2,embed=vocab,pp=2", "pp=3,tp=2", "quant=int8,fuse-attention,cleanup"]
)
def test_what_llmc_does_leaves_steps(model: str, passes: str) -> None:
    graph = lifted(model)
    check_step(graph)
    assert is_step(run_pipeline(graph, passes).graph)


def test_a_whole_layer_may_go_with_its_caches() -> None:
    def skip_first(graph: Graph) -> Graph:
        states = {"cache.0.k", "cache.0.v"}
        swept = sweep(graph, lambda op, b: graph.value("embed.sum") if op.name == "layers.0.after_mlp" else None)
        kept = FrozenDict({role: value for role, value in swept.outputs.items() if role not in states})
        inputs = tuple(value for value in swept.inputs if value.name not in states)
        return replace(eliminate_dead(replace(swept, outputs=kept)), inputs=inputs)

    graph = run_pipeline(lifted(), [skip_first]).graph
    assert is_step(graph)
    assert len(graph.states()) == len(lifted().states()) - 2


def test_other_graphs_have_no_such_contract() -> None:
    demo = graph_of("""
        input x: f32[B,4]
        .:
          %a: f32[B,4] = relu(%x)
        output logits = %a
        """)
    assert not is_step(demo)
    changed = replace(demo, outputs=FrozenDict({"y": demo.outputs["logits"]}))
    assert run_pipeline(demo, [lambda graph: changed]).graph is changed
