"""The tensors of a FasterTransformer directory by the names that transformers gives them, one function a family."""

from __future__ import annotations

from compiler.frontends.composed import joined, sliced
from compiler.frontends.layouts.ft_linears import FtLayers, Tensors

# Rows of OPT's table of positions that no token uses, and that are not stored.
_UNUSED_POSITIONS = 2
_QKV = "attention.query_key_value"
_DENSE = "attention.dense"
_UP, _DOWN = "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"
_NORMS = ("input_layernorm", "post_attention_layernorm")
_HEAD = "lm_head.weight"


def neox_tensors(f: FtLayers) -> Tensors:
    """The tensors of a GPT-NeoX model."""
    m = f.model
    tensors = f.table("wte", "gpt_neox.embed_in.weight", m.vocab)
    tensors |= f.norm("final_layernorm", "gpt_neox.final_layer_norm")
    tensors |= f.table(_HEAD, "embed_out.weight", m.vocab) if f.files.has(_HEAD) else {}
    # Each rank adds these biases before the sum over ranks, where both halves of a layer are summed at once.
    times = f.files.degree if m.section.flag("use_gptj_residual", default=True) else 1
    for i in range(m.layers):
        layer, usual = f"layers.{i}", f"gpt_neox.layers.{i}"
        for name in _NORMS:
            tensors |= f.norm(f"{layer}.{name}", f"{usual}.{name}")
        tensors |= f.by_head(f"{layer}.{_QKV}", f"{usual}.{_QKV}")
        tensors |= f.by_inputs(f"{layer}.{_DENSE}", f"{usual}.{_DENSE}", m.hidden, times=times)
        tensors |= f.by_outputs(f"{layer}.{_UP}", f"{usual}.{_UP}")
        tensors |= f.by_inputs(f"{layer}.{_DOWN}", f"{usual}.{_DOWN}", m.inner, times=times)
    f.files.drop(lambda key: key.endswith(".mlp.attention.bias.sum"))  # of two biases that are stored as well
    return tensors


def gptj_tensors(f: FtLayers) -> Tensors:
    """The tensors of a GPT-J model."""
    m = f.model
    tensors = f.table("wte", "transformer.wte.weight", m.vocab) | f.table(_HEAD, "lm_head.weight", m.vocab)
    tensors["lm_head.bias"] = f.files.whole("lm_head.bias", m.vocab)
    tensors |= f.norm("final_layernorm", "transformer.ln_f")
    for i in range(m.layers):
        layer, usual = f"layers.{i}", f"transformer.h.{i}"
        tensors |= f.norm(f"{layer}.input_layernorm", f"{usual}.ln_1")
        tensors |= f.separate(f"{layer}.{_QKV}", f"{usual}.attn.{{}}_proj", bias=False)
        tensors |= f.by_inputs(f"{layer}.{_DENSE}", f"{usual}.attn.out_proj", m.hidden, bias=False)
        tensors |= f.by_outputs(f"{layer}.{_UP}", f"{usual}.mlp.fc_in")
        tensors |= f.by_inputs(f"{layer}.{_DOWN}", f"{usual}.mlp.fc_out", m.inner)
    return tensors


def opt_tensors(f: FtLayers) -> Tensors:
    """The tensors of an OPT model, whose narrow embeddings were multiplied by their projections."""
    m, name = f.model, "model.decoder.embed_positions.weight"
    positions = f.files.whole("wpe", m.context, m.hidden)
    unused = sliced(name, positions, 0, 0, _UNUSED_POSITIONS)
    tensors = f.table("wte", "model.decoder.embed_tokens.weight", m.vocab)
    tensors[name] = joined(name, [unused, positions], 0)
    tensors |= f.table(_HEAD, "lm_head.weight", m.vocab) if f.files.has(_HEAD) else {}
    if f.files.has("final_layernorm.weight"):
        tensors |= f.norm("final_layernorm", "model.decoder.final_layer_norm")
    for i in range(m.layers):
        layer, usual = f"layers.{i}", f"model.decoder.layers.{i}"
        for name, norm in zip(_NORMS, ("self_attn_layer_norm", "final_layer_norm"), strict=True):
            tensors |= f.norm(f"{layer}.{name}", f"{usual}.{norm}")
        tensors |= f.separate(f"{layer}.{_QKV}", f"{usual}.self_attn.{{}}_proj", bias=True)
        tensors |= f.by_inputs(f"{layer}.{_DENSE}", f"{usual}.self_attn.out_proj", m.hidden)
        tensors |= f.by_outputs(f"{layer}.{_UP}", f"{usual}.fc1")
        tensors |= f.by_inputs(f"{layer}.{_DOWN}", f"{usual}.fc2", m.inner)
    return tensors


def mpt_tensors(f: FtLayers, *, bias: bool) -> Tensors:
    """The tensors of an MPT model, or of a GPT as a variant of it."""
    m = f.model
    tensors = f.table("wte", "transformer.wte.weight", m.vocab)
    tensors |= f.norm("final_layernorm", "transformer.norm_f", bias=bias)
    tensors |= f.table("wpe", "transformer.wpe.weight", m.context) if f.files.has("wpe") else {}
    tensors |= f.table(_HEAD, "lm_head.weight", m.vocab) if f.files.has(_HEAD) else {}
    for i in range(m.layers):
        layer, usual = f"layers.{i}", f"transformer.blocks.{i}"
        for name, norm in zip(_NORMS, ("norm_1", "norm_2"), strict=True):
            tensors |= f.norm(f"{layer}.{name}", f"{usual}.{norm}", bias=bias)
        tensors |= f.stacked(f"{layer}.{_QKV}", f"{usual}.attn.Wqkv", bias=bias)
        tensors |= f.by_inputs(f"{layer}.{_DENSE}", f"{usual}.attn.out_proj", m.hidden, bias=bias)
        tensors |= f.by_outputs(f"{layer}.{_UP}", f"{usual}.ffn.up_proj", bias=bias)
        tensors |= f.by_inputs(f"{layer}.{_DOWN}", f"{usual}.ffn.down_proj", m.inner, bias=bias)
    return tensors
