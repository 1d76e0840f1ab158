"""What the modules of TensorRT-LLM's models are called in the Hugging Face form of each family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compiler.frontends.composed import ComposedTensor, SourceTensor, joined, reshaped, sliced
from compiler.frontends.layouts.tensorrt_llm.config import RankConfig
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

Fuse = Callable[[str, list[SourceTensor], RankConfig], SourceTensor]
"""Joins what is stored for each output of queries, keys and values, in that order."""


@dataclass(frozen=True)
class Names:
    """The names of a family; those of a layer's modules follow its prefix.

    Attributes:
        embedding: the table of tokens.
        final_norm: the norm behind the last layer.
        head: the head.
        layer: the prefix of a layer, with the number to be filled in.
        attention: the module that caches belong to.
        qkv: the module of queries, keys and values, or three of them.
        modules: the other modules, by what they are called here.
        positions: the table of learned positions, if there is one.
        unused_positions: how many of its rows belong to no position, and are not stored here.
        fuse: joins queries, keys and values of one module.
    """

    embedding: str
    final_norm: str
    head: str
    layer: str
    attention: str
    qkv: tuple[str, ...]
    modules: Mapping[str, str]
    positions: str | None = None
    unused_positions: int = 0
    fuse: Fuse | None = None


def _below(name: str, parts: list[SourceTensor], config: RankConfig) -> SourceTensor:
    return joined(name, parts, 0)


def _by_head(name: str, parts: list[SourceTensor], config: RankConfig) -> SourceTensor:
    """Head by head, and in each queries, keys and values."""
    rest = parts[0].shape[1:]
    heads = [reshaped(part.name, part, config.heads, 1, config.head_dim, *rest) for part in parts]
    return reshaped(name, joined(name, heads, 1), 3 * config.heads * config.head_dim, *rest)


FAMILIES: Mapping[str, Names] = {
    "gpt_neox": Names(
        embedding="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        head="embed_out",
        layer="gpt_neox.layers.{}.",
        attention="attention",
        qkv=("attention.query_key_value",),
        modules={
            "input_layernorm": "input_layernorm",
            "post_attention_layernorm": "post_attention_layernorm",
            "post_layernorm": "post_attention_layernorm",
            "attention.dense": "attention.dense",
            "mlp.fc": "mlp.dense_h_to_4h",
            "mlp.proj": "mlp.dense_4h_to_h",
        },
        fuse=_by_head,
    ),
    "gptj": Names(
        embedding="transformer.wte",
        final_norm="transformer.ln_f",
        head="lm_head",
        layer="transformer.h.{}.",
        attention="attn",
        qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        modules={
            "input_layernorm": "ln_1",
            "attention.dense": "attn.out_proj",
            "mlp.fc": "mlp.fc_in",
            "mlp.proj": "mlp.fc_out",
        },
    ),
    "opt": Names(
        embedding="model.decoder.embed_tokens",
        final_norm="model.decoder.final_layer_norm",
        head="lm_head",
        layer="model.decoder.layers.{}.",
        attention="self_attn",
        qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        modules={
            "input_layernorm": "self_attn_layer_norm",
            "post_layernorm": "final_layer_norm",
            "attention.dense": "self_attn.out_proj",
            "mlp.fc": "fc1",
            "mlp.proj": "fc2",
        },
        positions="model.decoder.embed_positions",
        unused_positions=2,
    ),
    "mpt": Names(
        embedding="transformer.wte",
        final_norm="transformer.norm_f",
        head="lm_head",
        layer="transformer.blocks.{}.",
        attention="attn",
        qkv=("attn.Wqkv",),
        modules={
            "input_layernorm": "norm_1",
            "post_layernorm": "norm_2",
            "attention.dense": "attn.out_proj",
            "mlp.fc": "ffn.up_proj",
            "mlp.proj": "ffn.down_proj",
        },
        fuse=_below,
    ),
}
"""By `model_type`."""


def padded_above(name: str, tensor: SourceTensor, rows: int) -> SourceTensor:
    """A matrix below so many rows of zeros."""
    if not rows:
        return tensor
    width, dtype = tensor.shape[1], tensor.dtype
    assert dtype is not None

    def build(b: Builder, xs: Sequence[Value], result: str) -> Value:
        zeros = b.literal(dtype=DType.f32, shape=(rows, width), values=(0.0,), name=f"{result}.zeros")
        typed = zeros if dtype is DType.f32 else b.cast(zeros, dtype=dtype, name=f"{result}.above")
        return b.concat(typed, xs[0], axis=0, name=result)

    return ComposedTensor(name, (tensor,), (rows + tensor.shape[0], width), dtype, build)


def cut_rows(tensor: SourceTensor, rows: int) -> SourceTensor:
    """The first rows of a tensor that may have been padded."""
    return sliced(tensor.name, tensor, 0, 0, rows) if tensor.shape[0] > rows else tensor
