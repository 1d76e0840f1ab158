"""Random models of every family, without files: their weights are noise, biases included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from compiler.frontends import Limits, lift
from compiler.frontends.checkpoint import Checkpoint
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep


def noise_model(config: dict[str, Any]) -> Graph:
    """The graph of a model with that config, in float32 and with weights large enough that every part matters."""
    checkpoint = Checkpoint(Path(), {**config, "dtype": "float32"}, dummy_weights=True)
    graph = lift(checkpoint, limits=Limits(max_batch=4, max_input=16, max_seq=32))

    def louder(op: Op, b: RewriteBuilder) -> Value | None:
        if op.kind.name != "random":
            return None
        return b.random(**{**op.attrs, "std": 0.4})

    return sweep(graph, louder)


@dataclass(frozen=True)
class Case:
    """A model, and a number of ranks that its layers can be split over."""

    config: dict[str, Any]
    tp: int


@st.composite
def cases(draw: Any) -> Case:
    """Models of any family and any variant that changes what is split."""
    tp = draw(st.sampled_from([2, 3, 4]))
    heads = tp * draw(st.integers(1, 2))
    family = draw(st.sampled_from([_neox, _gptj, _opt, _mpt]))
    sizes = {
        "vocab": draw(st.integers(5, 23)),
        "heads": heads,
        "hidden": heads * draw(st.sampled_from([4, 6])),
        "inner": tp * draw(st.integers(1, 5)),
        "layers": draw(st.integers(1, 3)),
    }
    return Case(family(draw, **sizes), tp)


def _neox(draw: Any, vocab: int, heads: int, hidden: int, inner: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "use_parallel_residual": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "rotary_pct": draw(st.sampled_from([0.0, 0.5, 1.0])),
    }


def _gptj(draw: Any, vocab: int, heads: int, hidden: int, inner: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "gptj",
        "architectures": ["GPTJForCausalLM"],
        "vocab_size": vocab,
        "n_embd": hidden,
        "n_head": heads,
        "n_inner": inner,
        "n_layer": layers,
        "rotary_dim": draw(st.sampled_from([2, 4])),
        "tie_word_embeddings": draw(st.booleans()),
    }


def _opt(draw: Any, vocab: int, heads: int, hidden: int, inner: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "ffn_dim": inner,
        "num_hidden_layers": layers,
        "max_position_embeddings": 32,
        "word_embed_proj_dim": draw(st.sampled_from([hidden, 12])),
        "do_layer_norm_before": draw(st.booleans()),
        "enable_bias": draw(st.booleans()),
        "activation_function": draw(st.sampled_from(["relu", "gelu", "relu2", "hardswish"])),
        "tie_word_embeddings": draw(st.booleans()),
    }


def _mpt(draw: Any, vocab: int, heads: int, hidden: int, inner: int, layers: int) -> dict[str, Any]:
    attn: dict[str, Any] = {
        "attn_type": "grouped_query_attention",
        "kv_n_heads": draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])),
        "alibi": draw(st.booleans()),
        "rope": draw(st.booleans()),
        "fused_qkv": draw(st.booleans()),
        **draw(st.sampled_from([{}, {"clip_qkv": 0.5}])),
        **draw(st.sampled_from([{}, {"qk_ln": True}, {"qk_gn": True}])),
        **draw(st.sampled_from([{}, {"attn_logit_softcapping": 2.0}])),
    }
    reuse = {
        "order": [{"name": "default"}] + [{"name": "reuse"}] * (layers - 1),
        "overrides": {"reuse": {"attn_config": {"reuse_kv_layer_idx": -1}}},
    }
    return {
        "model_type": "mpt",
        "architectures": ["MPTForCausalLM"],
        "vocab_size": vocab,
        "d_model": hidden,
        "n_heads": heads,
        "n_layers": layers,
        "max_seq_len": 32,
        "attn_config": attn,
        "ffn_config": {"ffn_hidden_size": inner, "ffn_type": draw(st.sampled_from(["mptmlp", "mptglu"]))},
        "no_bias": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        **draw(st.sampled_from([{}, {"logit_scale": 0.3}])),
        **draw(st.sampled_from([{}, {"block_overrides": reuse}])),
    }
