"""Traces of whole models: what agrees is said to agree, and a planted fault is found at its op."""

import math
from pathlib import Path

import pytest
import transformers

import llmc
from compiler.errors import LlmcError, RequestError
from llmc.tracing.graph_source import GraphSource
from llmc.tracing.model_source import ModelSource
from llmc.tracing.report import Comparison, ValueTrace
from tests.frontends.models import random_model
from tests.llmc.tracing.faults import (
    FAMILIES,
    PROMPT,
    checkpoint,
    graph_file,
    with_changed_weight,
    with_text_changed,
)


def comparison(result: ValueTrace, name: str) -> Comparison:
    return next(each for each in result.comparisons if each.a.name == name)


def parted(result: ValueTrace) -> Comparison:
    assert result.parting is not None
    assert not result.agree
    return result.parting.at


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lifted_graph_agrees_with_transformers_at_every_module(family: str) -> None:
    result = llmc.trace(checkpoint(family), f"transformers:{checkpoint(family)}", PROMPT)
    assert result.agree
    names = {each.a.name for each in result.comparisons}
    ops = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.up", "mlp.act", "mlp.down", "after_mlp", "ln1.norm")
    layers = {f"layers.{layer}.{op}" for layer in range(4) for op in (*ops, "attn.context.merged")}
    assert {"embed.tokens", "final_norm.norm", "lm_head.logits", *layers} <= names
    assert 0 < comparison(result, "lm_head.logits").difference.error < 2e-3  # 16 bits against 32
    assert "layers.0.attn.scores" in {site.name for site in result.only_a}
    assert result.only_b == ()


def test_layers_that_end_with_a_norm_agree_with_transformers(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = transformers.OPTConfig(vocab_size=31, ffn_dim=24, do_layer_norm_before=False, **sizes)
    random_model(transformers.OPTForCausalLM, config, seed=1).save_pretrained(tmp_path)
    result = llmc.trace(tmp_path, f"transformers:{tmp_path}", [3, 1, 4, 15, 9])
    assert result.agree
    assert result.dtype == "float32"
    assert {"layers.1.ln2.norm", "layers.0.attn.q"} <= {each.a.name for each in result.comparisons}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_weight_is_found_in_its_layer(family: str, tmp_path: Path) -> None:
    bad = with_changed_weight(family, "layers.2.mlp.up.weight", tmp_path)
    at = parted(llmc.trace(bad, checkpoint(family), PROMPT))
    assert (at.a.name, at.a.kind, at.layer, at.constant) == ("layers.2.mlp.up.weight", "const", 2, True)
    assert at.difference.where == (3, 5)
    assert at.difference.values is not None
    assert at.difference.values[0] == 4.0

    result = llmc.trace(bad, f"transformers:{checkpoint(family)}", PROMPT)  # which shows no weights
    at = parted(result)
    assert (at.a.name, at.a.kind) == ("layers.2.mlp.up", "linear")
    assert at.difference.where[-1] == 3
    assert result.parting is not None
    assert [each.parts for each in result.parting.operands] == [False]


# What says where tokens are, wrong in layer 2, or in the whole model where it does not belong to a layer.
_ROTARY = "rotary(%.k.heads, %positions.cos, %positions.sin"
POSITIONS = {
    "gptneox": (f"{_ROTARY})", f"{_ROTARY}, interleaved=true)", 2, "layers.2.attn.k.rotary", "layers.2.attn"),
    "gptj": (f"{_ROTARY}, interleaved=true)", f"{_ROTARY})", 2, "layers.2.attn.k.rotary", "layers.2.attn"),
    "opt": ("axis=0, start=2, size=512", "axis=0, start=1, size=512", None, "positions.weight", "positions"),
    "mpt": ("values=[0.25,0.0625", "values=[0.5,0.0625", None, "positions.slopes", "layers.0.attn"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_positions_are_found_where_they_are_made(family: str, tmp_path: Path) -> None:
    old, new, layer, name, scope = POSITIONS[family]
    bad = with_text_changed(family, old, new, tmp_path / "bad.ir", layer=layer)
    assert parted(llmc.trace(bad, checkpoint(family), PROMPT)).a.name == name

    result = llmc.trace(bad, f"transformers:{checkpoint(family)}", PROMPT)
    assert parted(result).a.name.startswith(scope)
    assert result.parting is not None
    suspects = (*result.parting.between, result.parting.at.a.name)  # the fault is in what lies between
    expected = {"opt": "positions.embedding", "mpt": "positions.alibi"}.get(family, name)
    assert expected in suspects


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantized_layer_is_found(family: str, tmp_path: Path) -> None:
    lifted = llmc.lift(checkpoint(family))
    stored = lifted.producers["layers.1.mlp.down.weight"].attrs["data"].name.removesuffix(".weight")
    for number, algorithm in enumerate(("int8", "int4")):
        passes = f"quant={algorithm}:only={stored},merge-linears,fuse-attention,cleanup"
        graph = graph_file(llmc.optimize(lifted, passes).graph, tmp_path / f"{number}.ir")
        at = parted(llmc.trace(graph, checkpoint(family), PROMPT))
        assert at.a.name.startswith("layers.1.mlp.down.weight")
        assert (at.a.kind, at.b.name) == ("dequantize", "layers.1.mlp.down.weight")
        assert "quant" in at.a.passes
        assert 1e-3 < at.difference.error < 0.2
    at = parted(llmc.trace(graph, f"transformers:{checkpoint(family)}", PROMPT))  # which shows no weights
    assert (at.a.name, at.a.kind) == ("layers.1.mlp.down", "linear")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of four ranks."""
    path = tmp_path_factory.mktemp("engines") / "sharded"
    return llmc.compile(checkpoint("gptneox"), path, passes="tp=2,pp=2", target="torch", max_seq=64).path


def test_an_engine_of_several_ranks_agrees_with_its_checkpoint(sharded: Path) -> None:
    result = llmc.trace(sharded, checkpoint("gptneox"), PROMPT)
    assert result.agree
    names = {each.a.name for each in result.comparisons}
    assert {"layers.0.attn.q", "layers.3.attn.context", "layers.3.mlp.act", "layers.3.after_mlp"} <= names
    assert comparison(result, "layers.0.attn.q").shape == (1, len(PROMPT), 128)  # the shards of two ranks, joined
    assert "layers.0.attn.scores" in {site.name for site in result.only_b}  # fused in the engine
    merged = {(each.a.name, each.b.name) for each in result.comparisons}
    assert ("layers.2.attn.k.weight", "layers.2.attn.q_k_v.weight") in {(b, a) for a, b in merged}


def test_other_numbers_of_ranks_and_merged_linears_agree(tmp_path: Path) -> None:
    lifted = llmc.lift(checkpoint("opt"))
    passes = ("tp=2,merge-linears", "tp=4,merge-linears,fuse-attention", "tp=2,embed=vocab", "pp=2,merge-linears")
    files = [
        graph_file(llmc.optimize(lifted, text).graph, tmp_path / f"{number}.ir") for number, text in enumerate(passes)
    ]
    for one, other in ((0, 1), (1, 2), (3, 1)):
        result = llmc.trace(files[one], files[other], PROMPT)
        assert result.agree, (passes[one], passes[other], result.parting)
        assert len(result.comparisons) > 120
    assert {"layers.0.attn.out.partial"} <= {each.a.name for each in llmc.trace(files[0], files[1], PROMPT).comparisons}


def test_the_graph_of_one_rank_does_not_run_alone(sharded: Path) -> None:
    with pytest.raises(RequestError, match="is the graph of rank 1, which does not run without the other ranks"):
        llmc.trace(checkpoint("gptneox"), sharded / "rank1.ir", PROMPT)


def test_a_spoilt_rank_is_found_in_its_layer(sharded: Path, tmp_path: Path) -> None:
    bad = with_changed_weight("gptneox", "layers.2.mlp.down.weight", tmp_path)
    result = llmc.trace(sharded, bad, PROMPT)
    at = parted(result)
    assert at.b.name == "layers.2.mlp.down.weight"
    assert at.a.passes[0] == "tp"
    assert llmc.trace(sharded, sharded, PROMPT).agree


def test_long_prompts_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, new, layer, name, _ = POSITIONS["gptj"]
    bad = with_text_changed("gptj", old, new, tmp_path / "bad.ir", layer=layer)
    whole = llmc.trace(bad, checkpoint("gptj"), PROMPT)
    model = f"transformers:{checkpoint('gptj')}"
    with_model = llmc.trace(checkpoint("gptj"), model, PROMPT)
    monkeypatch.setattr(GraphSource, "chunk", lambda self, length: 4)
    parts = llmc.trace(bad, checkpoint("gptj"), PROMPT)
    assert parted(parts).a.name == name
    assert [each.a.name for each in parts.comparisons] == [each.a.name for each in whole.comparisons]
    one, other = parted(parts).difference, parted(whole).difference
    assert one.error == pytest.approx(other.error, rel=1e-2)
    assert (one.where, one.values) == (other.where, other.values)
    monkeypatch.setattr(ModelSource, "chunk", lambda self, length: 4)
    in_parts = llmc.trace(checkpoint("gptj"), model, PROMPT)
    assert in_parts.agree
    logits, others = (comparison(each, "lm_head.logits") for each in (in_parts, with_model))
    assert logits.difference.error == pytest.approx(others.difference.error, rel=0.2)
    assert logits.statistics[1].rms == pytest.approx(others.statistics[1].rms, rel=1e-4)


def test_caches_in_blocks_and_other_types_agree(tmp_path: Path) -> None:
    lifted = llmc.lift(checkpoint("gptneox"))
    paged = llmc.optimize(lifted, "fuse-attention,cleanup,cache=paged").graph
    result = llmc.trace(graph_file(paged, tmp_path / "paged.ir"), checkpoint("gptneox"), PROMPT)
    assert result.agree
    assert comparison(result, "layers.3.attn.k.cache").shape == (1, 4, len(PROMPT), 32)
    rounded = graph_file(llmc.optimize(lifted, "dtype=bfloat16").graph, tmp_path / "bf16.ir")
    result = llmc.trace(rounded, checkpoint("gptneox"), PROMPT)
    assert result.agree
    assert result.dtype == "bfloat16"
    assert not llmc.trace(rounded, checkpoint("gptneox"), PROMPT, tolerance=1e-4).agree


def test_quantized_caches_part_where_they_are_quantized(tmp_path: Path) -> None:
    path = llmc.compile(checkpoint("gptneox"), tmp_path / "kv", passes="kv=int8", target="torch", max_seq=64).path
    result = llmc.trace(path, checkpoint("gptneox"), PROMPT)
    assert (parted(result).a.name, parted(result).a.kind) == ("layers.0.attn.k.cache", "dequantize")
    assert result.parting is not None
    assert [each.a.name for each in result.parting.operands] == ["layers.0.attn.k.rotary"]
    assert result.parting.between == ("layers.0.attn.k.cache.new", "layers.0.attn.k.cache.stored")
    assert any("quantized while the model runs" in text for text in result.notes)


def test_tolerances_grow_with_depth_and_weights_may_round_once() -> None:
    result = llmc.trace(checkpoint("opt"), checkpoint("opt"), PROMPT)
    limits = [comparison(result, f"layers.{layer}.mlp.up").tolerance for layer in range(4)]
    assert limits == sorted(limits)
    assert limits[3] == pytest.approx(2 * limits[0])
    assert comparison(result, "layers.3.mlp.up.weight").tolerance == 2**-10
    assert comparison(result, "positions.ids").tolerance == 0
    assert [depth.words for depth in result.depths] == [
        "before them", *(f"layer {layer}" for layer in range(4)), "behind the layers",
    ]  # fmt: skip
    assert all(each.difference.error == 0 and math.isclose(each.difference.cosine, 1) for each in result.comparisons)


def test_other_models_are_compared_with_a_note() -> None:
    result = llmc.trace(checkpoint("gptneox"), checkpoint("opt"), PROMPT)
    assert not result.agree
    assert result.notes[0].startswith("A is a model of the family gpt_neox, B of opt")


def test_what_cannot_be_compared_is_said_before_anything_runs(tmp_path: Path) -> None:
    neox = checkpoint("gptneox")
    with pytest.raises(RequestError, match="token id 5000 is outside of the vocabulary"):
        llmc.trace(neox, neox, [5000])
    with pytest.raises(RequestError, match="the prompt has no tokens"):
        llmc.trace(neox, neox, [])
    with pytest.raises(RequestError, match=r"the prompt has 600 tokens, and .* takes 512"):
        llmc.trace(neox, neox, [1] * 600)
    with pytest.raises(RequestError, match="the tolerance is -1"):
        llmc.trace(neox, neox, [1], tolerance=-1)
    with pytest.raises(RequestError, match="there is no checkpoint behind transformers:"):
        llmc.trace(neox, "transformers:", [1])
    with pytest.raises(RequestError, match=r"cannot run .* with dummy weights"):
        llmc.trace(neox, f"transformers:{neox}", [1], dummy_weights=True)
    with pytest.raises(LlmcError, match="nothing"):
        llmc.trace(neox, tmp_path / "nothing", [1])
    graph = graph_file(llmc.lift(neox), tmp_path / "a.ir")
    with pytest.raises(RequestError, match="neither side has a tokenizer"):
        llmc.trace(graph, graph, "a text")
