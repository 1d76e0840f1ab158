"""Attention of single tokens as a layer of a plug-in: which attentions become one, and that they mean what they did."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmc
from compiler.backend_trt import BuildOptions
from compiler.backend_trt.checks import check_plans
from compiler.backend_trt.rules.plugin_attention import plugin_attention, why_no_attention
from compiler.errors import TargetError
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.op import make_op
from compiler.ir.specialize import bind_dims
from compiler.trt_network.attention import ATTENTION
from compiler.trt_network.plans import read_plans
from compiler.trt_network.products import PRODUCT
from compiler.trt_network.record import NetworkRecord, read_record
from runtime.engine_dir.engine_folder import open_engine

MODELS = Path("examples/models")
OPTIONS = BuildOptions(plugins=("attention",))


def records(engine: Path) -> dict[str, NetworkRecord]:
    """The networks of an engine, by the names of the plans."""
    listed = read_plans(engine / open_engine(engine).rank("tensorrt-rtx")["plans"])
    return {plan.name: read_record(engine / plan.network) for plan in listed.plans}


@pytest.mark.parametrize(
    ("model", "passes", "plugins"),
    [
        ("gptj-tiny", "quant=int8", "products+attention"),  # interleaved rotary; q, k, v and up in one product
        ("mpt-tiny", "kv=int8", "attention"),  # ALiBi
        ("gptneox-tiny", "kv=fp8", "attention"),
    ],
)
def test_engines_with_the_plug_in_are_verified(model: str, passes: str, plugins: str, tmp_path: Path) -> None:
    target = f"tensorrt-rtx:plugins={plugins}:batch_sizes=1+2:prompt_sizes=16"
    path = llmc.compile(
        MODELS / model, tmp_path / "engine", dtype="float32", max_seq=32, max_batch=2, passes=passes, target=target
    ).path
    for name, record in records(path).items():
        kinds = [layer.kind for layer in record.layers]
        decodes = name.startswith("decode")
        assert kinds.count(ATTENTION) == (4 if decodes else 0), name
        if decodes:
            assert not {"ATTENTION", "KV_CACHE_UPDATE", "SELECT", "SLICE", "DEQUANTIZE"} & {*kinds}
            assert sorted(record.aliases.values()) == sorted(f"cache.{n}.{which}" for n in range(4) for which in "kv")
            assert kinds.count(PRODUCT) == (8 if "products" in plugins else 0)
    verified = llmc.verify(path, executor="emulator", random=2, max_new_tokens=4)
    assert verified.holds, verified
    assert {plan.split("-")[0] for plan in verified.plans} == {"decode", "prefill"}


@pytest.fixture(scope="module")
def decoding() -> Graph:
    """A plan's graph of GPT-J for two tokens."""
    graph = llmc.optimize(llmc.lift(MODELS / "gptj-tiny"), "merge-linears,fuse-attention,cleanup").graph
    return bind_dims(graph, {"B": 2, "S": 1, "C": 128, "R": 1})


def test_attention_of_single_tokens_is_found(decoding: Graph) -> None:
    found = plugin_attention(decoding, ("attention",))
    assert len(found) == 4 and why_no_attention(decoding) == ""
    spec = next(iter(found.values())).spec
    assert (spec.heads, spec.kv_heads, spec.width, spec.turned, spec.interleaved) == (4, 4, 32, 16, True)
    assert not plugin_attention(decoding, ("products",))


def test_attention_of_several_tokens_is_left_to_tensorrt() -> None:
    graph = llmc.optimize(llmc.lift(MODELS / "gptj-tiny"), "merge-linears,fuse-attention,cleanup").graph
    prompts = bind_dims(graph, {"B": 1, "S": 16, "C": 128, "R": 1})
    assert not plugin_attention(prompts, ("attention",))
    assert why_no_attention(prompts) == "it is for more than one token of a sequence"


def changed(graph: Graph, name: str, **attrs: Any) -> Graph:
    """The graph with other attributes of an op."""
    ops = tuple(
        make_op(op.kind, op.operands, {**op.attrs, **attrs}, tuple(value.name for value in op.results), op.origin)
        if op.name == name
        else op
        for op in graph.ops
    )
    return graph.with_ops(ops, graph.outputs)


@pytest.mark.parametrize(
    ("name", "attrs", "why"),
    [
        ("layers.0.attn.q.rotary", {"interleaved": False}, "queries and keys are not turned alike"),
        ("layers.0.attn.context", {"scale": -1.0}, "its scale is -1.0"),
    ],
)
def test_an_attention_of_another_form_stays_a_layer_of_tensorrt(
    name: str, attrs: dict[str, Any], why: str, decoding: Graph
) -> None:
    graph = changed(decoding, name, **attrs)
    assert len(plugin_attention(graph, ("attention",))) == 3
    assert why_no_attention(graph) == why


def test_what_something_else_reads_is_not_swallowed(decoding: Graph) -> None:
    q = decoding.value("layers.0.attn.q.rotary")
    graph = replace(decoding, outputs=FrozenDict({**decoding.outputs, "turned": q}))
    assert len(plugin_attention(graph, ("attention",))) == 3
    assert why_no_attention(graph) == "its queries are not rows of heads that nothing else uses"


def test_a_model_that_has_no_such_attention_is_refused() -> None:
    graph = llmc.optimize(llmc.lift(MODELS / "gptj-tiny", max_seq=64, max_batch=2), "merge-linears,cleanup").graph
    with pytest.raises(TargetError, match="no attention of gptj is of the form that the plug-in computes") as caught:
        check_plans(graph, OPTIONS)
    assert "there is none in one op" in caught.value.message and "fuse-attention" in str(caught.value.hint)
