"""Which plans a graph gets, and that each of them means what the graph means."""

from __future__ import annotations

import json
import math

import pytest
import torch

import llmc
from compiler.backend_trt import BuildOptions
from compiler.backend_trt.checks import check_plans
from compiler.backend_trt.constants import Constants
from compiler.backend_trt.forms import apart
from compiler.backend_trt.plans import plan_specs
from compiler.errors import TargetError
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.interpreter import Interpreter
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType
from compiler.trt_network.record import Weight


def dims(batch=8, prompt=2048, seq=2048):
    return {
        "B": DimRange(1, batch, batch),
        "S": DimRange(1, 1, prompt),
        "C": DimRange(1, seq, seq),
        "R": DimRange(1, 1, prompt),
    }


def names(*args, **kwargs):
    return [spec.name for spec in plan_specs(*args, **kwargs)]


def test_sizes_are_shares_of_the_largest():
    assert names(dims()) == [
        "decode-b1-c512", "decode-b8-c512", "decode-b1-c2048", "decode-b8-c2048",
        "prefill-s256-c512", "prefill-s256-c2048", "prefill-s2048-c2048",
    ]  # fmt: skip


def test_small_limits_make_few_plans():
    assert names(dims(1, 16, 100)) == ["decode-b1-c128", "prefill-s16-c128"]
    assert names(dims(1, 1, 64)) == ["decode-b1-c128"]


def test_given_sizes_are_taken_and_the_limits_kept():
    given = names(dims(64), batches=[4], widths=[100], capacities=[300])
    assert given == [
        "decode-b1-c384", "decode-b4-c384", "decode-b64-c384",
        "decode-b1-c2048", "decode-b4-c2048", "decode-b64-c2048",
        "prefill-s100-c384", "prefill-s100-c2048",
    ]  # fmt: skip


def test_wide_plans_give_the_logits_of_one_token():
    scored = {spec.name: spec.sizes["R"] for spec in plan_specs(dims())}
    assert (scored["prefill-s256-c512"], scored["prefill-s2048-c2048"], scored["decode-b8-c512"]) == (256, 1, 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batches": [9]}, "a batch of 9 was asked for; the engine's go from 1 to 8"),
        ({"widths": [0, 4]}, "a width of 0"),
        ({"capacities": [4096]}, "a capacity of 4096"),
    ],
)
def test_sizes_beyond_the_limits(sizes, message):
    with pytest.raises(TargetError, match=message):
        plan_specs(dims(), **sizes)


def test_a_graph_without_steps_has_one_plan():
    assert names({"B": DimRange(1, 2, 4)}) == ["all"]


def stored(b, name, shape):
    return b.const(data=TensorRef(TensorType(DType.f32, shape), name, "w", 0), name=name)


def literal(b, name, shape):
    values = tuple(math.sin(1.7 * i) for i in range(math.prod(shape)))
    return b.literal(dtype=DType.f32, shape=shape, values=values, name=name)


def merged_graph(constant=stored):
    b = Builder("g")
    x = b.input("x", DType.f32, 3, 4)
    weight, bias = constant(b, "weight", (6, 4)), constant(b, "bias", (6,))
    pieces = b.split(b.linear(x, weight, bias, name="both"), axis=-1, sizes=(2, 4), names=("a", "c"))
    b.output("y", b.add(pieces[0], b.slice(pieces[1], axis=1, start=0, size=2)))
    b.output("z", pieces[1])
    return b.build()


def test_joined_products_come_apart_into_rows_of_their_weight():
    graph = apart(merged_graph())
    assert [op.name for op in graph.find("linear")] == ["a", "c"]
    assert not list(graph.find("split"))
    second = graph.producers["c"].operands[1]
    assert Constants(graph, lambda value: torch.zeros(0)).weight(second) == Weight("weight", 2 * 4 * 4)


def test_apart_means_the_same():
    graph, x = merged_graph(literal), torch.randn(3, 4)
    expected, got = Interpreter(graph)({"x": x}), Interpreter(apart(graph))({"x": x})
    for role in ("y", "z"):
        torch.testing.assert_close(got[role], expected[role])


def test_products_that_are_also_read_whole_stay_together():
    graph = merged_graph()
    whole = graph.with_ops(graph.ops, {**graph.outputs, "w": graph.value("both")})
    assert apart(whole) is whole


def test_plans_that_hold_weights_are_few():
    assert names(dims(), few=True) == ["decode-b1-c2048", "decode-b8-c2048", "prefill-s256-c2048"]
    given = names(dims(), few=True, batches=[4], widths=[100], capacities=[512])
    assert given == [
        "decode-b1-c512", "decode-b4-c512", "decode-b8-c512", "decode-b1-c2048", "decode-b4-c2048", "decode-b8-c2048",
        "prefill-s100-c512", "prefill-s100-c2048",
    ]  # fmt: skip


def widths(**options):
    """The widths of the prefill plans by the capacity that they are for."""
    found: dict[int, list[int]] = {}
    for spec in plan_specs(dims(8, 65536, 65536), **options):
        if spec.sizes["S"] > 1:
            found.setdefault(spec.sizes["C"], []).append(spec.sizes["S"])
    return found


def test_long_prompts_get_chunks_whose_masks_are_not_too_large():
    assert widths() == {size: [256, 2048] for size in (4096, 16384, 65536)} | {256: [256], 1024: [256]}
    with_a_bias_of_8_heads = {256: [256], 1024: [256], 4096: [256, 2048], 16384: [128, 1024], 65536: [256]}
    assert widths(product=8) == with_a_bias_of_8_heads
    assert widths(product=1024)[65536] == [64]
    assert widths(product=8, few=True) == {65536: [256]}
    assert widths(product=64, few=True) == {65536: [64]}


def test_widths_that_are_given_stay():
    assert widths(widths=[65536], capacities=[65536], product=8) == {65536: [65536]}


@pytest.mark.parametrize(("heads", "slots"), [(8, 65536), (1, 4096), (112, 131072)])
def test_the_mask_of_a_default_plan_has_a_bound(heads, slots):
    plans = [spec.sizes for spec in plan_specs(dims(8, slots, slots), product=heads)]
    wide = [heads * sizes["S"] * sizes["C"] for sizes in plans if sizes["S"] > 64]
    assert max(wide, default=0) <= 2**27
    assert max(sizes["C"] for sizes in plans) == slots
    assert max(sizes["S"] for sizes in plans) >= 64


def long_model(kind):
    """A checkpoint's config for 65,536 tokens: with a bias for each of 8 heads, or with rotary positions."""
    if kind == "mpt":
        sizes = {"d_model": 64, "n_heads": 8, "n_layers": 1, "max_seq_len": 65536, "attn_config": {"alibi": True}}
        return {"model_type": "mpt", "vocab_size": 97, "torch_dtype": "float16", **sizes}
    sizes = {"hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 1, "intermediate_size": 64}
    return {
        "model_type": "gpt_neox",
        "vocab_size": 97,
        "torch_dtype": "float16",
        "max_position_embeddings": 65536,
    } | sizes


@pytest.mark.parametrize(("kind", "width"), [("mpt", 256), ("gpt_neox", 2048)])
def test_what_a_graph_holds_decides_how_wide_its_plans_are(tmp_path, kind, width):
    (tmp_path / "config.json").write_text(json.dumps(long_model(kind)))
    graph = llmc.optimize(llmc.lift(tmp_path, dummy_weights=True), "merge-linears,fuse-attention,cleanup").graph
    specs = check_plans(graph, BuildOptions())
    assert max(spec.sizes["S"] for spec in specs if spec.sizes["C"] == 65536) == width


@pytest.mark.parametrize("kind", ["mpt", "gpt_neox"])
def test_a_model_of_long_sequences_builds_with_the_defaults(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps(long_model(kind)))
    build = BuildOptions(capacities=(65536,), reuse=False)
    place = tmp_path / "engine"
    compiled = llmc.compile(tmp_path, place, target="tensorrt-rtx", max_batch=1, dummy_weights=True, build=build)
    assert any(name.startswith("prefill") for name in compiled.plans["tensorrt-rtx"])
