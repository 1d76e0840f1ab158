"""What the config of a TensorRT-LLM checkpoint says, as the `config.json` of its family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from compiler.errors import ConfigError
from compiler.frontends.config import Config
from compiler.frontends.quantized_form import quantized_form

_INERT = (
    *("architecture", "dtype", "logits_dtype", "producer", "runtime_defaults", "use_prompt_tuning", "model_type"),
    *("max_lora_rank", "use_parallel_embedding", "embedding_sharding_dim", "quantization"),
    *("max_prompt_embedding_table_size", "kv_dtype", "disable_weight_only_quant_plugin", "use_fused_mlp"),
)
# quant_algo → how inputs are rounded; None for those that are not.
ALGORITHMS: Mapping[str, str | None] = {
    "W8A16": None,
    "W4A16": None,
    "W8A16_GPTQ": None,
    "W4A16_GPTQ": None,
    "W4A16_AWQ": None,
    "FP8": "static",
    "FP8_PER_CHANNEL_PER_TOKEN": "token",
    "W8A8_SQ_PER_CHANNEL": "static",
    "W8A8_SQ_PER_TENSOR_PLUGIN": "static",
    "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN": "static",
    "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN": "token",
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": "token",
}
# What is stored says as much; of modules that are not quantized, too.
_TOLD = (
    *("quant_algo", "kv_cache_quant_algo", "group_size", "has_zero_point", "pre_quant_scale", "exclude_modules"),
    *("use_weight_only", "weight_only_precision", "smoothquant_val", "clamp_val", "use_meta_recipe"),
)
_UNQUANTIZED = ("NO_QUANT", "None")
_CACHES = ("INT8", "FP8")


@dataclass(frozen=True)
class RankConfig:
    """What such a config says of the model, as far as files are laid out by it.

    Attributes:
        tp: how many ranks share each layer.
        pp: into how many runs of layers the model is cut.
        layers: how many layers it has.
        heads: how many query heads.
        kv_heads: how many key heads.
        head_dim: dims of a head.
        hidden: the width of the model.
        vocab: how many tokens there are.
        inner: the width of the MLP.
        by_columns: whether a table of embeddings that is shared out is so by its columns.
        algorithm: the quantization, one of `ALGORITHMS`; None for none.
    """

    tp: int
    pp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    inner: int
    by_columns: bool
    algorithm: str | None


@dataclass(frozen=True)
class Translated:
    """A config in both forms, and notes about it.

    Attributes:
        config: the `config.json` of the family.
        ranks: what the files are laid out by.
        notes: what was odd but harmless.
    """

    config: dict[str, Any]
    ranks: RankConfig
    notes: list[str]


def translated(values: Mapping[str, Any]) -> Translated:
    """The config of the family, from that of TensorRT-LLM.

    Raises:
        ConfigError: if a key is missing, or has a value that is not supported.
    """
    config = Config(values)
    architecture = config.choice("architecture", {name: name for name in _FAMILIES}, default="")
    config.ignore(*_INERT)
    ranks = _ranks(config)
    common: dict[str, Any] = {
        "architectures": [architecture],
        "vocab_size": ranks.vocab,
        "dtype": config.take("dtype", str),
        "tie_word_embeddings": config.take("share_embedding_table", bool, default=False),
    }
    notes: list[str] = []
    own = _FAMILIES[architecture](config, ranks, notes)
    quantization = _quantization(config)
    found = common | own | ({"quantization_config": quantization} if quantization else {})
    notes += [f"the config key {key!r} is not known and was ignored" for key in config.unknown()]
    return Translated(found, ranks, notes)


def _ranks(config: Config) -> RankConfig:
    mapping = config.section("mapping")
    tp, pp = mapping.size("tp_size", default=1), mapping.size("pp_size", default=1)
    world = mapping.size("world_size", default=tp * pp)
    mapping.ignore("gpus_per_node", "moe_tp_size", "moe_ep_size", "moe_cluster_size", "auto_parallel", "rank")
    mapping.ignore("attn_tp_size", "attn_cp_size", "cp_config", "enable_attention_dp", "enable_lm_head_tp_in_adp")
    mapping.only("cp_size", 1)
    if world != tp * pp:
        raise ConfigError(f"the config key 'mapping.world_size' is {world}; 'tp_size' {tp} times 'pp_size' {pp} is not")
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if hidden % heads:
        raise ConfigError(
            f"the config key 'hidden_size' is {hidden}, which 'num_attention_heads' = {heads} does not divide"
        )
    config.only("head_size", hidden // heads)
    config.only("qk_layernorm", False)
    for what, count in (("num_attention_heads", heads), ("hidden_size", hidden)):
        if count % tp:
            raise ConfigError(f"the config key {what!r} is {count}, which 'mapping.tp_size' = {tp} does not divide")
    kv_heads = config.size("num_key_value_heads", default=heads)
    if max(kv_heads, tp) % min(kv_heads, tp):
        raise ConfigError(f"the config key 'num_key_value_heads' is {kv_heads}; 'mapping.tp_size' is {tp}")
    return RankConfig(
        tp=tp,
        pp=pp,
        layers=config.size("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        hidden=hidden,
        vocab=config.size("vocab_size"),
        inner=config.size("intermediate_size", default=4 * hidden),
        by_columns=config.take("embedding_sharding_dim", int, default=0) == 1,
        algorithm=_algorithm(config.values.get("quantization")),
    )


def _algorithm(quantization: Any) -> str | None:
    """The `quant_algo`; the first versions said it in two keys."""
    if not isinstance(quantization, dict):
        return None
    if quantization.get("use_weight_only"):
        return {"int8": "W8A16", "int4": "W4A16"}.get(str(quantization.get("weight_only_precision", "int8")))
    found = quantization.get("quant_algo")
    return None if found is None or found in _UNQUANTIZED else str(found)


def _quantization(config: Config) -> dict[str, Any]:
    """The form of quantized linears; none if nothing is quantized."""
    section = config.section("quantization")
    section.ignore(*_TOLD)
    algorithm, cache = _algorithm(section.values), section.values.get("kv_cache_quant_algo")
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise section.unsupported("quant_algo", algorithm, ALGORITHMS)
    if cache is not None and cache not in _CACHES:
        raise section.unsupported("kv_cache_quant_algo", cache, _CACHES)
    if algorithm is None and cache is None:
        return {}
    inputs = None if algorithm is None else ALGORITHMS[algorithm]
    return quantized_form(inputs, cache)


def _gpt_neox(config: Config, ranks: RankConfig, notes: list[str]) -> dict[str, Any]:
    config.ignore("position_embedding_type", "rotary_dim", "apply_query_key_layer_scaling")
    return {
        "model_type": "gpt_neox",
        "hidden_size": ranks.hidden,
        "num_hidden_layers": ranks.layers,
        "num_attention_heads": ranks.heads,
        "intermediate_size": ranks.inner,
        "hidden_act": config.take("hidden_act", str),
        "layer_norm_eps": config.take("norm_epsilon", float, default=1e-5),
        "max_position_embeddings": config.size("max_position_embeddings", default=2048),
        "rotary_pct": config.take("rotary_pct", float, aliases=("rotary_percentage",)),
        "rotary_emb_base": config.take("rotary_emb_base", float, aliases=("rotary_base",), default=10000.0),
        "use_parallel_residual": True,
    }


def _gptj(config: Config, ranks: RankConfig, notes: list[str]) -> dict[str, Any]:
    config.only("position_embedding_type", "rope_gptj")
    act = config.take("hidden_act", str)
    return {
        "model_type": "gptj",
        "n_embd": ranks.hidden,
        "n_layer": ranks.layers,
        "n_head": ranks.heads,
        "n_inner": ranks.inner,
        # The family's GELU is the approximation by tanh, which is what TensorRT-LLM calls gelu.
        "activation_function": "gelu_new" if act == "gelu" else act,
        "layer_norm_epsilon": config.take("norm_epsilon", float, default=1e-5),
        "n_positions": config.size("max_position_embeddings", default=2048),
        "rotary_dim": config.size("rotary_dim"),
    }


def _opt(config: Config, ranks: RankConfig, notes: list[str]) -> dict[str, Any]:
    config.only("position_embedding_type", "learned_absolute")
    config.only("norm_epsilon", 1e-5)
    return {
        "model_type": "opt",
        "hidden_size": ranks.hidden,
        "word_embed_proj_dim": ranks.hidden,
        "num_hidden_layers": ranks.layers,
        "num_attention_heads": ranks.heads,
        "ffn_dim": ranks.inner,
        "activation_function": config.take("hidden_act", str),
        "max_position_embeddings": config.size("max_position_embeddings"),
        "tie_word_embeddings": True,  # what is stored decides
        "do_layer_norm_before": config.take("do_layer_norm_before", bool, default=False),
    }


def _mpt(config: Config, ranks: RankConfig, notes: list[str]) -> dict[str, Any]:
    config.only("position_embedding_type", "alibi")
    config.only("hidden_act", "gelu")
    context = config.size("max_position_embeddings", default=None)
    if context is None:
        notes.append(
            "the config says nothing of 'max_position_embeddings': 2048 is taken for the context length "
            "(--max-seq for another)"
        )
    return {
        "model_type": "mpt",
        "architectures": ["MPTForCausalLM"],
        "tie_word_embeddings": True,
        "d_model": ranks.hidden,
        "n_layers": ranks.layers,
        "n_heads": ranks.heads,
        "expansion_ratio": ranks.inner / ranks.hidden,
        "max_seq_len": context or 2048,
        "norm_eps": config.take("norm_epsilon", float, default=1e-5),
        "no_bias": not config.take("bias", bool, default=False),
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": config.take("alibi_bias_max", float, default=8.0),
            "clip_qkv": config.take("clip_qkv", float, default=None),
            "kv_n_heads": ranks.kv_heads,
            "attn_type": "grouped_query_attention",
        },
    }


_Family = Callable[[Config, RankConfig, list[str]], dict[str, Any]]
_FAMILIES: Mapping[str, _Family] = {
    "GPTNeoXForCausalLM": _gpt_neox,
    "GPTJForCausalLM": _gptj,
    "OPTForCausalLM": _opt,
    "MPTForCausalLM": _mpt,
    "MptForCausalLM": _mpt,
}
