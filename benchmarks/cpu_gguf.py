"""A GPT-NeoX checkpoint as a GGUF file without a tokenizer, which `llama.cpp` runs by token ids."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open

TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
"""The types that a file's matrices may have."""

_OUTSIDE = {"gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output"}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def write_gguf(checkpoint: Path, file: Path, kind: str) -> None:
    """Write a GPT-NeoX checkpoint of one safetensors file.

    Args:
        checkpoint: its folder.
        file: what is written.
        kind: the type of matrices, a key of `TYPES`; vectors are float32.

    Raises:
        ValueError: if it is of another family.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    if config["model_type"] != "gpt_neox":
        raise ValueError(f"llama.cpp has no architecture for {config['model_type']}")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    rope = config.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", config.get("rotary_pct", 0.25))
    writer = gguf.GGUFWriter(file, "gptneox")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_rope_dimension_count(int(width // heads * share))
    writer.add_rope_freq_base(rope.get("rope_theta", config.get("rotary_emb_base", 10000)))
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_parallel_residual(config["use_parallel_residual"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    with safe_open(checkpoint / "model.safetensors", framework="numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no mapping
            tensor = tensors.get_tensor(name).astype(np.float32)
            if ".query_key_value." in name:
                tensor = _apart(tensor, heads)
            _add(writer, _name(name), tensor, TYPES[kind] if tensor.ndim == 2 else TYPES["f32"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, name: str, tensor: np.ndarray, kind: gguf.GGMLQuantizationType) -> None:
    if kind in (TYPES["f32"], TYPES["f16"]):
        writer.add_tensor(name, tensor.astype(np.float16 if kind is TYPES["f16"] else np.float32))
    else:
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)


def _apart(tensor: np.ndarray, heads: int) -> np.ndarray:
    """All queries, then all keys, then all values; the checkpoint has those of a head together."""
    return tensor.reshape(heads, 3, -1, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)


def _name(name: str) -> str:
    """What GGUF calls a tensor: `blk.0.attn_qkv.weight`."""
    module, _, part = name.rpartition(".")
    if module in _OUTSIDE:
        return f"{_OUTSIDE[module]}.{part}"
    _, _, number, inside = module.split(".", 3)
    return f"blk.{number}.{_IN_LAYER[inside]}.{part}"
