"""What the keys of a GGUF file say of a model, as the `config.json` of its family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from compiler.errors import ConfigError
from compiler.frontends.config import Config
from compiler.frontends.file_kinds import AGAIN


@dataclass(frozen=True)
class Family:
    """A family, by its architecture.

    Attributes:
        modules: what its modules are called in the Hugging Face form; those of layers follow `layer`.
        in_layer: the modules of a layer.
        layer: the prefix of a layer, with the number to be filled in.
        config: makes the config of the family.
        by_head: whether the rows of fused projections are to be ordered head by head.
        tables: the tensors that are looked up, which are no weights of linears.
    """

    modules: Mapping[str, str]
    in_layer: Mapping[str, str]
    layer: str
    config: Callable[[Config, Collection[str], int], dict[str, Any]]
    by_head: bool = False
    tables: tuple[str, ...] = ("token_embd.weight", "position_embd.weight")


# That cannot change what a model computes.
_INERT = ("vocab_size", "tensor_data_layout", "rope.scaling.finetuned")


def config_of(keys: Mapping[str, Any], tensors: Collection[str], vocab: int) -> tuple[dict[str, Any], list[str]]:
    """The config of a family, and notes about keys that are not known.

    Args:
        keys: those of the file.
        tensors: the names of its tensors.
        vocab: how many tokens there are.

    Raises:
        ConfigError: if the architecture is not supported, or a key is missing, or has a value that is not supported.
    """
    architecture = str(keys.get("general.architecture"))
    if architecture not in FAMILIES:
        raise ConfigError(
            f"the GGUF file is of the architecture {architecture!r}, which is not supported; "
            f"supported: {', '.join(FAMILIES)}",
            hint="give the checkpoint that it was made from, if it is of a family that llmc knows",
        )
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in keys.items() if key.startswith(prefix)}
    config = Config(own)
    config.ignore(*_INERT)
    config.only("rope.scaling.type", "none")
    made = FAMILIES[architecture].config(config, tensors, vocab) | _special_tokens(keys)
    return made, [f"the key {prefix + key!r} is not known and was ignored" for key in config.unknown()]


def _special_tokens(keys: Mapping[str, Any]) -> dict[str, Any]:
    names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    found = {usual: keys.get(f"tokenizer.ggml.{name}") for usual, name in names.items()}
    return {usual: value for usual, value in found.items() if value is not None}


def _sizes(config: Config, tensors: Collection[str]) -> tuple[int, int, int, int]:
    """Width, heads, layers and the width of the MLP; ConfigError if they do not fit each other or the tensors."""
    hidden, heads = config.size("embedding_length"), config.size("attention.head_count")
    if hidden % heads:
        raise ConfigError(f"'embedding_length' is {hidden}, which 'attention.head_count' = {heads} does not divide")
    layers = config.size("block_count")
    stored = len({name.split(".")[1] for name in tensors if name.startswith("blk.")})
    if layers != stored:
        raise ConfigError(f"'block_count' is {layers}, but the file holds {stored} layers", hint=AGAIN)
    return hidden, heads, layers, config.size("feed_forward_length", default=4 * hidden)


def _epsilon(config: Config) -> float:
    """What is stored in float32, as it was written before: in as few digits as tell it."""
    value = config.take("attention.layer_norm_epsilon", float, default=1e-5)
    return float(f"{value:.6g}")


def _gpt_neox(config: Config, tensors: Collection[str], vocab: int) -> dict[str, Any]:
    hidden, heads, layers, inner = _sizes(config, tensors)
    head_dim = hidden // heads
    rotary = config.take("rope.dimension_count", int, default=head_dim)
    fraction = rotary / head_dim
    config.only("attention.head_count_kv", heads)
    return {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "hidden_act": "gelu",
        "max_position_embeddings": config.size("context_length"),
        "layer_norm_eps": _epsilon(config),
        "rotary_pct": fraction if int(head_dim * fraction) == rotary else (rotary + 0.5) / head_dim,
        "rotary_emb_base": config.take("rope.freq_base", float, default=10000.0),
        "use_parallel_residual": config.take("use_parallel_residual", bool, default=True),
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _gptj(config: Config, tensors: Collection[str], vocab: int) -> dict[str, Any]:
    hidden, heads, layers, inner = _sizes(config, tensors)
    config.only("attention.head_count_kv", heads)
    config.only("rope.freq_base", 10000.0)
    return {
        "model_type": "gptj",
        "architectures": ["GPTJForCausalLM"],
        "vocab_size": vocab,
        "n_embd": hidden,
        "n_head": heads,
        "n_layer": layers,
        "n_inner": inner,
        "n_positions": config.size("context_length"),
        "layer_norm_epsilon": _epsilon(config),
        "rotary_dim": config.size("rope.dimension_count"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _mpt(config: Config, tensors: Collection[str], vocab: int) -> dict[str, Any]:
    hidden, heads, layers, inner = _sizes(config, tensors)
    kv_heads = config.size("attention.head_count_kv", default=heads)
    bias_max = config.take("attention.max_alibi_bias", float, default=0.0)
    return {
        "model_type": "mpt",
        "architectures": ["MPTForCausalLM"],
        "vocab_size": vocab,
        "d_model": hidden,
        "n_heads": heads,
        "n_layers": layers,
        "expansion_ratio": inner / hidden,
        "max_seq_len": config.size("context_length"),
        "norm_eps": _epsilon(config),
        "no_bias": "blk.0.attn_norm.bias" not in tensors,
        "learned_pos_emb": "position_embd.weight" in tensors,
        "tie_word_embeddings": True,  # what is stored decides
        "attn_config": {
            "alibi": bias_max > 0,
            **({"alibi_bias_max": bias_max} if bias_max > 0 else {}),
            "clip_qkv": config.take("attention.clamp_kqv", float, default=None),
            "kv_n_heads": kv_heads,
            "attn_type": "grouped_query_attention",
            "qk_ln": "blk.0.attn_q_norm.weight" in tensors,
        },
    }


FAMILIES: Mapping[str, Family] = {
    "gptneox": Family(
        modules={
            "token_embd": "gpt_neox.embed_in",
            "output_norm": "gpt_neox.final_layer_norm",
            "output": "embed_out",
        },
        in_layer={
            "attn_norm": "input_layernorm",
            "attn_qkv": "attention.query_key_value",
            "attn_output": "attention.dense",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.dense_h_to_4h",
            "ffn_down": "mlp.dense_4h_to_h",
        },
        layer="gpt_neox.layers.{}.",
        config=_gpt_neox,
        by_head=True,
    ),
    "gptj": Family(
        modules={"token_embd": "transformer.wte", "output_norm": "transformer.ln_f", "output": "lm_head"},
        in_layer={
            "attn_norm": "ln_1",
            "attn_q": "attn.q_proj",
            "attn_k": "attn.k_proj",
            "attn_v": "attn.v_proj",
            "attn_output": "attn.out_proj",
            "ffn_up": "mlp.fc_in",
            "ffn_down": "mlp.fc_out",
        },
        layer="transformer.h.{}.",
        config=_gptj,
    ),
    "mpt": Family(
        modules={
            "token_embd": "transformer.wte",
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.norm_f",
            "output": "lm_head",
        },
        in_layer={
            "attn_norm": "norm_1",
            "attn_qkv": "attn.Wqkv",
            "attn_q_norm": "attn.q_ln",
            "attn_k_norm": "attn.k_ln",
            "attn_output": "attn.out_proj",
            "ffn_norm": "norm_2",
            "ffn_up": "ffn.up_proj",
            "ffn_down": "ffn.down_proj",
        },
        layer="transformer.blocks.{}.",
        config=_mpt,
    ),
}
"""By the architecture that a file names."""
