"""The tensors of a FasterTransformer directory, under the names and in the layouts of transformers.

FasterTransformer stores weights as `[inputs, outputs]`, and fused projections as `[inputs, 3, outputs]`, cut along the
outputs, or for the second linear of a half of a layer along the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from compiler.frontends.composed import SourceTensor, joined, reshaped, scaled, sliced, transposed
from compiler.frontends.layouts.ft_config import FtModel
from compiler.frontends.layouts.ft_files import FtFiles

Tensors = dict[str, SourceTensor]

# Rows of OPT's table of positions that no token uses, and that are not stored.
_UNUSED_POSITIONS = 2
_QKV = "attention.query_key_value"
_DENSE = "attention.dense"
_UP, _DOWN = "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"


def neox_tensors(m: FtModel, files: FtFiles) -> Tensors:
    """The tensors of a GPT-NeoX model, whose fused rows are `[heads, 3, head_dim]` in transformers."""
    tensors = {
        "gpt_neox.embed_in.weight": files.whole("wte", m.vocab, m.hidden),
        **_norm(m, files, "final_layernorm", "gpt_neox.final_layer_norm"),
    }
    if files.has("lm_head.weight"):
        tensors["embed_out.weight"] = files.whole("lm_head.weight", m.vocab, m.hidden)
    # Each rank adds these biases before the sum over ranks, where both halves of a layer are summed at once.
    times = files.degree if m.section.flag("use_gptj_residual", default=True) else 1
    for i in range(m.layers):
        layer, usual = f"layers.{i}", f"gpt_neox.layers.{i}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors |= _norm(m, files, f"{layer}.{name}", f"{usual}.{name}")
        fused = reshaped(_QKV, _fused(m, files, f"{layer}.{_QKV}"), m.hidden, 3, m.heads, m.head_dim)
        name = f"{usual}.{_QKV}.weight"
        tensors[name] = reshaped(name, transposed(name, fused, (2, 1, 3, 0)), 3 * m.hidden, m.hidden)
        bias = reshaped(_QKV, _fused_bias(m, files, f"{layer}.{_QKV}"), 3, m.heads, m.head_dim)
        name = f"{usual}.{_QKV}.bias"
        tensors[name] = reshaped(name, transposed(name, bias, (1, 0, 2)), 3 * m.hidden)
        tensors |= _column_parallel(files, f"{layer}.{_UP}", f"{usual}.{_UP}", m.hidden, m.inner)
        for key, width in ((_DENSE, m.hidden), (_DOWN, m.inner)):
            tensors |= _row_parallel(files, f"{layer}.{key}", f"{usual}.{key}", width, m.hidden, times=times)
    files.drop(lambda key: key.endswith(".mlp.attention.bias.sum"))  # of two biases that are stored as well
    return tensors


def gptj_tensors(m: FtModel, files: FtFiles) -> Tensors:
    """The tensors of a GPT-J model."""
    tensors = {
        "transformer.wte.weight": files.whole("wte", m.vocab, m.hidden),
        "lm_head.weight": files.whole("lm_head.weight", m.vocab, m.hidden),
        "lm_head.bias": files.whole("lm_head.bias", m.vocab),
        **_norm(m, files, "final_layernorm", "transformer.ln_f"),
    }
    for i in range(m.layers):
        layer, usual = f"layers.{i}", f"transformer.h.{i}"
        tensors |= _norm(m, files, f"{layer}.input_layernorm", f"{usual}.ln_1")
        tensors |= _projections(m, files, f"{layer}.{_QKV}", f"{usual}.attn.{{}}_proj", bias=False)
        tensors |= _row_parallel(files, f"{layer}.{_DENSE}", f"{usual}.attn.out_proj", m.hidden, m.hidden, bias=False)
        tensors |= _column_parallel(files, f"{layer}.{_UP}", f"{usual}.mlp.fc_in", m.hidden, m.inner)
        tensors |= _row_parallel(files, f"{layer}.{_DOWN}", f"{usual}.mlp.fc_out", m.inner, m.hidden)
    return tensors


def opt_tensors(m: FtModel, files: FtFiles) -> Tensors:
    """The tensors of an OPT model, whose narrow embeddings were multiplied by their projections."""
    positions = files.whole("wpe", m.context, m.hidden)
    name = "model.decoder.embed_positions.weight"
    unused = sliced(name, positions, 0, 0, _UNUSED_POSITIONS)
    tensors = {
        "model.decoder.embed_tokens.weight": files.whole("wte", m.vocab, m.hidden),
        name: joined(name, [unused, positions], 0),
    }
    if files.has("lm_head.weight"):
        tensors["lm_head.weight"] = files.whole("lm_head.weight", m.vocab, m.hidden)
    if files.has("final_layernorm.weight"):
        tensors |= _norm(m, files, "final_layernorm", "model.decoder.final_layer_norm")
    for i in range(m.layers):
        layer, usual = f"layers.{i}", f"model.decoder.layers.{i}"
        tensors |= _norm(m, files, f"{layer}.input_layernorm", f"{usual}.self_attn_layer_norm")
        tensors |= _norm(m, files, f"{layer}.post_attention_layernorm", f"{usual}.final_layer_norm")
        tensors |= _projections(m, files, f"{layer}.{_QKV}", f"{usual}.self_attn.{{}}_proj", bias=True)
        tensors |= _row_parallel(files, f"{layer}.{_DENSE}", f"{usual}.self_attn.out_proj", m.hidden, m.hidden)
        tensors |= _column_parallel(files, f"{layer}.{_UP}", f"{usual}.fc1", m.hidden, m.inner)
        tensors |= _row_parallel(files, f"{layer}.{_DOWN}", f"{usual}.fc2", m.inner, m.hidden)
    return tensors


def mpt_tensors(m: FtModel, files: FtFiles, *, bias: bool) -> Tensors:
    """The tensors of an MPT model, or of a GPT as a variant of it."""
    tensors = {
        "transformer.wte.weight": files.whole("wte", m.vocab, m.hidden),
        **_norm(m, files, "final_layernorm", "transformer.norm_f", bias=bias),
    }
    if files.has("wpe"):
        tensors["transformer.wpe.weight"] = files.whole("wpe", m.context, m.hidden)
    if files.has("lm_head.weight"):
        tensors["lm_head.weight"] = files.whole("lm_head.weight", m.vocab, m.hidden)
    for i in range(m.layers):
        layer, usual = f"layers.{i}", f"transformer.blocks.{i}"
        tensors |= _norm(m, files, f"{layer}.input_layernorm", f"{usual}.norm_1", bias=bias)
        tensors |= _norm(m, files, f"{layer}.post_attention_layernorm", f"{usual}.norm_2", bias=bias)
        tensors |= _fused_rows(m, files, f"{layer}.{_QKV}", f"{usual}.attn.Wqkv", bias=bias)
        dense, down = f"{usual}.attn.out_proj", f"{usual}.ffn.down_proj"
        tensors |= _row_parallel(files, f"{layer}.{_DENSE}", dense, m.hidden, m.hidden, bias=bias)
        tensors |= _column_parallel(files, f"{layer}.{_UP}", f"{usual}.ffn.up_proj", m.hidden, m.inner, bias=bias)
        tensors |= _row_parallel(files, f"{layer}.{_DOWN}", down, m.inner, m.hidden, bias=bias)
    return tensors


def _norm(m: FtModel, files: FtFiles, key: str, usual: str, *, bias: bool = True) -> Tensors:
    kinds = ("weight", "bias") if bias else ("weight",)
    return {f"{usual}.{kind}": files.whole(f"{key}.{kind}", m.hidden) for kind in kinds}


def _column_parallel(files: FtFiles, key: str, usual: str, width: int, out: int, *, bias: bool = True) -> Tensors:
    """A linear that is cut along its outputs, with its bias."""
    name, part = f"{usual}.weight", out // files.degree
    weight = joined(name, files.parts(f"{key}.weight", width, part), 1)
    tensors: Tensors = {name: transposed(name, weight)}
    if bias:
        tensors[f"{usual}.bias"] = joined(f"{usual}.bias", files.parts(f"{key}.bias", part), 0)
    return tensors


def _row_parallel(
    files: FtFiles, key: str, usual: str, width: int, out: int, *, bias: bool = True, times: int = 1
) -> Tensors:
    """A linear that is cut along its inputs, with its bias, which is stored once, divided by `times`."""
    name = f"{usual}.weight"
    weight = joined(name, files.parts(f"{key}.weight", width // files.degree, out), 0)
    tensors: Tensors = {name: transposed(name, weight)}
    if bias:
        stored = files.whole(f"{key}.bias", out)
        tensors[f"{usual}.bias"] = stored if times == 1 else scaled(f"{usual}.bias", stored, float(times))
    return tensors


def _fused(m: FtModel, files: FtFiles, key: str) -> SourceTensor:
    """The fused projection `[inputs, 3, outputs]`."""
    return joined(key, files.parts(f"{key}.weight", m.hidden, 3, m.hidden // files.degree), 2)


def _fused_bias(m: FtModel, files: FtFiles, key: str) -> SourceTensor:
    return joined(key, files.parts(f"{key}.bias", 3, m.hidden // files.degree), 1)


def _projections(m: FtModel, files: FtFiles, key: str, usual: str, *, bias: bool) -> Tensors:
    """The query, key and value as linears of their own; `usual` has a place for their letters."""
    weight = _fused(m, files, key)
    offset = _fused_bias(m, files, key) if bias else None
    tensors: Tensors = {}
    for i, letter in enumerate("qkv"):
        name = f"{usual.format(letter)}.weight"
        third = reshaped(name, sliced(name, weight, 1, i, 1), m.hidden, m.hidden)
        tensors[name] = transposed(name, third)
        if offset is not None:
            name = f"{usual.format(letter)}.bias"
            tensors[name] = reshaped(name, sliced(name, offset, 0, i, 1), m.hidden)
    return tensors


def _fused_rows(m: FtModel, files: FtFiles, key: str, usual: str, *, bias: bool) -> Tensors:
    """The query, key and value one below the other. Of each rank they lie side by side, its heads of each."""
    widths = [heads * m.head_dim // files.degree for heads in (m.heads, m.kv_heads, m.kv_heads)]
    name, offset = f"{usual}.weight", f"{usual}.bias"
    parts = files.parts(f"{key}.weight", m.hidden, sum(widths))
    tensors: Tensors = {name: transposed(name, _by_projection(name, parts, widths, 1))}
    if bias:
        tensors[offset] = _by_projection(offset, files.parts(f"{key}.bias", sum(widths)), widths, 0)
    return tensors


def _by_projection(name: str, parts: Sequence[SourceTensor], widths: list[int], axis: int) -> SourceTensor:
    """The parts of all ranks joined, first all queries, then all keys, then all values."""
    if len(parts) == 1:
        return parts[0]
    starts = [sum(widths[:i]) for i in range(3)]
    pieces = [
        sliced(name, part, axis, start, width) for start, width in zip(starts, widths, strict=True) for part in parts
    ]
    return joined(name, pieces, axis)
