"""Writes GGUF files with the package gguf, as llama.cpp's converters do, from a model of transformers."""

from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from compiler.ir.frozen import EMPTY

Kind = Callable[[str, Tensor], str]
"""The type in which to store a tensor, given its name in the file."""


def floats(name: str, tensor: Tensor) -> str:
    """The floats as they are."""
    return "f32"


def neox_tensors(model: Any) -> dict[str, Tensor]:
    """Queries, keys and values one below the other."""
    heads = model.config.num_attention_heads
    names = {
        "gpt_neox.embed_in": "token_embd",
        "gpt_neox.final_layer_norm": "output_norm",
        "embed_out": "output",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "attention.query_key_value": "attn_qkv",
        "attention.dense": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    }
    found = {}
    for name, tensor in model.state_dict().items():
        if ".query_key_value." in name:
            tensor = tensor.reshape(heads, 3, -1, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
        found[spelled(name, names, "gpt_neox.layers.")] = tensor
    return found


def mpt_tensors(model: Any) -> dict[str, Tensor]:
    """As they are."""
    names = {
        "transformer.wte": "token_embd",
        "transformer.norm_f": "output_norm",
        "norm_1": "attn_norm",
        "attn.Wqkv": "attn_qkv",
        "attn.out_proj": "attn_output",
        "norm_2": "ffn_norm",
        "ffn.up_proj": "ffn_up",
        "ffn.down_proj": "ffn_down",
    }
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("lm_head")}
    return {spelled(name, names, "transformer.blocks."): tensor for name, tensor in state.items()}


def gptj_tensors(model: Any) -> dict[str, Tensor]:
    """Separate projections."""
    names = {
        "transformer.wte": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        "ln_1": "attn_norm",
        **{f"attn.{x}_proj": f"attn_{x}" for x in "qkv"},
        "attn.out_proj": "attn_output",
        "mlp.fc_in": "ffn_up",
        "mlp.fc_out": "ffn_down",
    }
    return {spelled(name, names, "transformer.h."): tensor for name, tensor in model.state_dict().items()}


def spelled(name: str, names: Mapping[str, str], layers: str) -> str:
    """The name in the file."""
    module, _, kind = name.rpartition(".")
    if module.startswith(layers):
        number, _, inner = module.removeprefix(layers).partition(".")
        return f"blk.{number}.{names[inner]}.{kind}"
    return f"{names[module]}.{kind}"


FAMILIES = {"gpt_neox": ("gptneox", neox_tensors), "mpt": ("mpt", mpt_tensors), "gptj": ("gptj", gptj_tensors)}


def write(
    model: Any,
    path: Path,
    *,
    kind: Kind = floats,
    blocks: Mapping[str, Tensor] = EMPTY,
    only: Container[str] | None = None,
    more: Callable[[Any], None] = lambda writer: None,
) -> Path:
    """Write a file.

    Args:
        model: the model.
        path: the file.
        kind: the type of each tensor.
        blocks: the bytes of tensors in blocks, instead of what the package makes of their floats.
        only: the tensors to write; None for all.
        more: called with the writer before tensors are added.
    """
    architecture, tensors = FAMILIES[model.config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    _keys(writer, model.config)
    more(writer)
    for name, tensor in tensors(model).items():
        if only is not None and name not in only:
            continue
        form = kind(name, tensor)
        array = tensor.detach().float().contiguous().numpy()
        if name in blocks:
            writer.add_tensor(name, blocks[name].numpy(), raw_dtype=gguf.GGMLQuantizationType[form.upper()])
        elif form in ("f32", "f16"):
            writer.add_tensor(name, array if form == "f32" else array.astype("float16"))
        else:
            quantization = gguf.GGMLQuantizationType[form.upper()]
            writer.add_tensor(name, gguf.quants.quantize(array, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _keys(writer: Any, config: Any) -> None:
    if config.model_type == "gpt_neox":
        rope = config.rope_parameters
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        head_dim = config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(int(rope["partial_rotary_factor"] * head_dim))
        writer.add_head_count(config.num_attention_heads)
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_layer_norm_eps(config.layer_norm_eps)
    elif config.model_type == "mpt":
        writer.add_context_length(config.max_seq_len)
        writer.add_embedding_length(config.d_model)
        writer.add_block_count(config.n_layers)
        writer.add_feed_forward_length(4 * config.d_model)
        writer.add_head_count(config.n_heads)
        writer.add_layer_norm_eps(1e-5)
        if config.attn_config.clip_qkv is not None:
            writer.add_clamp_kqv(config.attn_config.clip_qkv)
        writer.add_max_alibi_bias(config.attn_config.alibi_bias_max)
    else:
        writer.add_context_length(config.n_positions)
        writer.add_embedding_length(config.n_embd)
        writer.add_block_count(config.n_layer)
        writer.add_feed_forward_length(config.n_inner)
        writer.add_head_count(config.n_head)
        writer.add_rope_dimension_count(config.rotary_dim)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)


def rounded(tensor: Tensor, form: str) -> Tensor:
    """What a tensor becomes in a type."""
    if form == "f32":
        return tensor
    if form == "f16":
        return tensor.half().float()
    quantization = gguf.GGMLQuantizationType[form.upper()]
    return dequantized(torch.from_numpy(gguf.quants.quantize(tensor.detach().float().numpy(), quantization)), form)


def dequantized(blocks: Tensor, form: str) -> Tensor:
    """The floats that blocks stand for."""
    return torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[form.upper()]))
