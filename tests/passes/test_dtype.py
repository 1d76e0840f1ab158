"""Changing the compute type: golden texts, islands of float32, and numbers close to the original's."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from compiler.errors import PassError
from compiler.frontends import lift, open_checkpoint
from compiler.ir.graph import Graph
from compiler.ir.verifier import verify
from compiler.passes import ChangeDType, canonical, cleanup, parse_pipeline
from tests.passes.checks import assert_golden, assert_same_meaning, compute, graph_of, random_inputs
from tests.paths import MODELS

TYPES = ("float32", "float16", "bfloat16")
SHORT: dict[Any, Any] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
CHECKPOINTS = sorted(path for path in MODELS.iterdir() if path.is_dir())


def step_graph(dtype: str) -> Graph:
    """A step in miniature: weights of all sorts, a cache, rotary angles, an ALiBi bias, a mask."""
    biased = "%.f32" if dtype == "f32" else "%.alibi"
    rounded = "" if dtype == "f32" else f"%.alibi: {dtype}[2,S,S] = cast(%.f32, dtype={dtype})"
    return graph_of(
        f"""
        fact dtype = "{dtype}"
        input at: i32[B]
        input count: i32[B]
        input ids: i32[B,S]
        input cache: {dtype}[B,2,8,4]
        positions:
          %.ids: f32[B,S] = cast(%ids, dtype=f32)
          %.column: f32[B,S,1] = reshape(%.ids, shape=[B,S,1])
          %.frequencies: f32[2] = literal(dtype=f32, shape=[2], values=[1.0,0.1])
          %.angles: f32[B,S,2] = mul(%.column, %.frequencies)
          %.cos: f32[B,S,2] = cos(%.angles)
          %.sin: f32[B,S,2] = sin(%.angles)
          %.slopes: f32[2,1,1] = literal(dtype=f32, shape=[2,1,1], values=[0.3,0.7])
          %.new: i32[S] = iota(size=S)
          %.key: i32[1,1,S] = reshape(%.new, shape=[1,1,S])
          %.query: i32[1,S,1] = reshape(%.new, shape=[1,S,1])
          %.distance: i32[1,S,S] = sub(%.key, %.query)
          %.distance.f32: f32[1,S,S] = cast(%.distance, dtype=f32)
          %.f32: f32[2,S,S] = mul(%.slopes, %.distance.f32)
          {rounded}
          %.mask: bool[1,S,S] = less_equal(%.key, %.query)
          %.low: {dtype}[] = literal(dtype={dtype}, shape=[], values=[-inf])
        attn:
          %.table: {dtype}[3,8] = random(key="table", dtype={dtype}, shape=[3,8], std=1.0)
          %.x: {dtype}[B,S,8] = embedding(%.table, %ids)
          %.w.stored: f32[8,8] = random(key="w", dtype=f32, shape=[8,8], std=0.4)
          %.w: {dtype}[8,8] = cast(%.w.stored, dtype={dtype})
          %.q: {dtype}[B,S,8] = linear(%.x, %.w)
          %.q.rows: {dtype}[B,S,2,4] = reshape(%.q, shape=[B,S,2,4])
          %.q.heads: {dtype}[B,2,S,4] = transpose(%.q.rows, perm=[0,2,1,3])
          %.q.rotary: {dtype}[B,2,S,4] = rotary(%.q.heads, %positions.cos, %positions.sin)
          %.cache: {dtype}[B,2,8,4] = kv_update(%cache, %.q.rotary, %at, %count)
          %.scores: {dtype}[B,2,S,S] = matmul(%.q.rotary, %.q.rotary, transpose_b=True)
          %.biased: {dtype}[B,2,S,S] = add(%.scores, {biased.replace("%", "%positions")})
          %.masked: {dtype}[B,2,S,S] = where(%positions.mask, %.biased, %positions.low)
          %.wide: f32[B,2,S,S] = cast(%.masked, dtype=f32)
          %.probs.wide: f32[B,2,S,S] = softmax(%.wide)
          %.probs: {dtype}[B,2,S,S] = cast(%.probs.wide, dtype={dtype})
          %.context: {dtype}[B,2,S,4] = matmul(%.probs, %.q.rotary)
        output context = %attn.context
        output cache = %attn.cache
        """.replace("True", "true")
    )


ISLANDS = [f"positions.{name}" for name in ("ids", "angles", "cos", "sin", "slopes", "distance.f32", "f32")]


@pytest.mark.parametrize(("old", "new"), list(product(TYPES, TYPES)))
def test_step_graph_from_any_type_to_any(old: str, new: Any) -> None:
    graph = step_graph(SHORT[old])
    changed = ChangeDType(new)(graph)
    verify(changed)
    assert changed.facts["dtype"] == SHORT[new]
    assert ChangeDType(new)(changed) is changed
    assert {str(changed.value(name).type.dtype) for name in ISLANDS} == {"f32"}
    cleaned = cleanup(changed)
    for name in ("cache", "attn.scores", "attn.masked", "attn.context", "attn.w"):
        if name in cleaned.values:
            assert str(cleaned.values[name].type.dtype) == SHORT[new], name
    for op in cleaned.find("cast"):  # no cast of a cast, none to the same type
        source = cleaned.producers.get(op.operands[0].name)
        assert op.operands[0].type != op.result.type
        assert source is None or source.kind.name != "cast"
    # Three positions: a bfloat16 has 8 bits, and a rounding of weights and scores goes through the softmax.
    loose = "bfloat16" in (old, new)
    inputs = random_inputs(graph) | {"at": torch.tensor([0, 2]), "count": torch.tensor([3, 1])}
    inputs = {name: tensor.int() if name in ("at", "count") else tensor for name, tensor in inputs.items()}
    expected, found = compute(graph, inputs), compute(cleaned, inputs)
    for role in expected:
        torch.testing.assert_close(
            found[role].float(), expected[role].float(), rtol=6e-2 if loose else 1e-2, atol=6e-2 if loose else 1e-2
        )


@pytest.mark.parametrize(("first", "second"), list(product(TYPES, TYPES)))
@pytest.mark.parametrize("model", CHECKPOINTS, ids=lambda path: path.name)
def test_lifted_models(model: Path, first: Any, second: Any) -> None:
    graph = lift(open_checkpoint(model))
    once = cleanup(ChangeDType(first)(graph))
    verify(once)
    twice = cleanup(ChangeDType(second)(once))
    verify(twice)
    for name, (state, _) in twice.states().items():
        assert str(state.type.dtype) == SHORT[second], name
    assert str(twice.outputs["logits"].type.dtype) == SHORT[second]
    for op in twice.find("rotary"):
        assert {str(value.type.dtype) for value in op.operands[1:]} == {"f32"}
    # Weights are stored in float16: whatever lies between, they are read and rounded once.
    assert len(list(twice.find("const"))) == len(list(graph.find("const")))
    assert not [op for op in twice.find("cast") if twice.producers[op.operands[0].name].kind.name == "cast"]


def test_golden_from_float32() -> None:
    before = """
        fact dtype = "f32"
        input ids: i32[B,S]
        a:
          %.table: f32[4,8] = const(data=f32[4,8] "table" in "w.safetensors" at 0)
          %.x: f32[B,S,8] = embedding(%.table, %ids)
          %.half: f16[8] = const(data=f16[8] "bias" in "w.safetensors" at 128)
          %.bias: f32[8] = cast(%.half, dtype=f32)
          %.shifted: f32[B,S,8] = add(%.x, %.bias)
          %.one: f32[] = literal(dtype=f32, shape=[], values=[1.0])
          %.y: f32[B,S,8] = mul(%.shifted, %.one)
          %.flags: bool[B,S] = less(%ids, %ids)
          %.wide: f32[B,S] = cast(%.flags, dtype=f32)
          %.column: f32[B,S,1] = reshape(%.wide, shape=[B,S,1])
          %.z: f32[B,S,8] = mul(%.y, %.column)
        output z = %a.z
        """
    after = """
        fact dtype = "f16"
        input ids: i32[B,S]
        a:
          %.table.stored: f32[4,8] = const(data=f32[4,8] "table" in "w.safetensors" at 0)  !dtype
          %.table: f16[4,8] = cast(%.table.stored, dtype=f16)  !dtype
          %.x: f16[B,S,8] = embedding(%.table, %ids)
          %.half: f16[8] = const(data=f16[8] "bias" in "w.safetensors" at 128)
          %.shifted: f16[B,S,8] = add(%.x, %.half)
          %.one.f16: f16[] = literal(dtype=f16, shape=[], values=[1.0])  !dtype
          %.y: f16[B,S,8] = mul(%.shifted, %.one.f16)
          %.flags: bool[B,S] = less(%ids, %ids)
          %.wide: f32[B,S] = cast(%.flags, dtype=f32)
          %.column: f32[B,S,1] = reshape(%.wide, shape=[B,S,1])
          %.column.f16: f16[B,S,1] = cast(%.column, dtype=f16)  !dtype
          %.z: f16[B,S,8] = mul(%.y, %.column.f16)
        output z = %a.z
        """
    assert_golden(ChangeDType("float16"), before, after)


def test_a_rounded_bias_is_rounded_once_and_from_its_source() -> None:
    before = """
        fact dtype = "f16"
        input ids: i32[B,8]
        .:
          %wide: f32[B,8] = cast(%ids, dtype=f32)
          %exact: f32[B,8] = scale(%wide, factor=0.3)
          %bias: f16[B,8] = cast(%exact, dtype=f16)
          %w: f16[8] = random(key="w", dtype=f16, shape=[8])
          %y: f16[B,8] = add(%bias, %w)
        output y = %y
        """
    to_bfloat16 = before.replace("f16", "bf16").replace("dtype=bf16, shape=[8])", "dtype=bf16, shape=[8])  !dtype")
    to_bfloat16 = to_bfloat16.replace("cast(%exact, dtype=bf16)", "cast(%exact, dtype=bf16)  !dtype")
    assert_golden(ChangeDType("bfloat16"), before, to_bfloat16)
    to_float32 = """
        fact dtype = "f32"
        input ids: i32[B,8]
        .:
          %wide: f32[B,8] = cast(%ids, dtype=f32)
          %exact: f32[B,8] = scale(%wide, factor=0.3)
          %w: f32[8] = random(key="w", dtype=f32, shape=[8])  !dtype
          %y: f32[B,8] = add(%exact, %w)
        output y = %y
        """
    assert_golden(ChangeDType("float32"), before, to_float32)


def test_an_operand_is_converted_once_for_all_its_uses() -> None:
    changed = ChangeDType("bf16")(
        graph_of("""
        fact dtype = "f32"
        input ids: i32[8]
        .:
          %wide: f32[8] = cast(%ids, dtype=f32)
          %bias: f32[8] = scale(%wide, factor=0.3)
          %w: f32[8] = random(key="w", dtype=f32, shape=[8])
          %a: f32[8] = add(%bias, %w)
          %b: f32[8] = mul(%a, %bias)
        output b = %b
        """)
    )
    assert [op.name for op in changed.find("cast")] == ["wide", "bias.bf16"]


def test_inputs_that_are_no_state_keep_their_type() -> None:
    changed = ChangeDType("f32")(
        graph_of("""
        fact dtype = "f16"
        input x: f16[8]
        input state: f16[8]
        .:
          %next: f16[8] = add(%state, %x)
        output state = %next
        """)
    )
    verify(changed)
    assert [str(value) for value in changed.inputs] == ["%x: f16[8]", "%state: f32[8]"]


def test_without_the_fact_the_commonest_type_counts() -> None:
    graph = graph_of("""
        input x: i32[8]
        .:
          %w: f16[8] = random(key="w", dtype=f16, shape=[8])
          %y: f16[8] = tanh(%w)
          %wide: f32[8] = cast(%x, dtype=f32)
        output y = %y
        output wide = %wide
        """)
    changed = ChangeDType("f16")(graph)
    assert changed.ops is graph.ops
    assert changed.facts == {"dtype": "f16"}
    assert str(ChangeDType("bf16")(graph).outputs["y"].type) == "bf16[8]"


def test_a_graph_without_floats_only_gets_the_fact() -> None:
    graph = graph_of("input x: i32[8]\noutput x = %x")
    assert ChangeDType("f32")(graph).facts == {"dtype": "f32"}


def test_short_spellings_mean_the_same() -> None:
    for long, short in SHORT.items():
        assert ChangeDType(short) == ChangeDType(long)
        assert canonical(parse_pipeline(f"dtype={short}")) == f"dtype={long}"


def test_refuses_other_types() -> None:
    with pytest.raises(PassError) as caught:
        ChangeDType("int8")  # type: ignore[arg-type]
    assert str(caught.value) == "models compute in float32, float16, bfloat16, not in 'int8'"


def test_widening_changes_no_number() -> None:
    graph = graph_of("""
        fact dtype = "f16"
        input ids: i32[B,S]
        .:
          %table: f16[3,8] = random(key="t", dtype=f16, shape=[3,8])
          %x: f16[B,S,8] = embedding(%table, %ids)
        output x = %x
        """)
    assert_same_meaning(graph, ChangeDType("f32")(graph), rtol=1e-3, atol=1e-5)
