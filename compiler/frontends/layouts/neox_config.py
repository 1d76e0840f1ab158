"""What the YAML files of a GPT-NeoX run say of the model, as the `config.json` of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from compiler.errors import ConfigError
from compiler.frontends.config import Config
from compiler.frontends.yaml_file import read_mapping

_SUFFIXES = (".yml", ".yaml")
_HINT = "correct it there, if it is not what the model was trained with"
# The keys that say what the model is.
_USED = """
activation attention_config bias_gelu_fusion gpt_j_residual gpt_j_tied hidden_size intermediate_size layernorm_epsilon
max_position_embeddings model_parallel_size moe_num_experts no_weight_tying norm num_attention_heads num_experts
num_kv_heads num_layers num_unique_layers pos_emb rotary_emb_base rotary_pct seq_length sliding_window_width
soft_prompt_tuning tokenizer_type train_impl use_bias_in_attn_linear use_bias_in_mlp use_bias_in_norms use_mup
use_qk_layernorm vocab_file
"""
# Names in GPT-NeoX → names in transformers.
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}


class NeoxConfig(Config):
    """The keys of a run, which may be spelled with dashes or with underscores; messages use underscores."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._label, self._hint = "the key of the GPT-NeoX config", _HINT

    def real(self, key: str, default: float) -> float:
        """A number, which YAML reads as text where it is written without a point, as in `1e-5`."""
        if isinstance(self.values.get(key), str):
            with suppress(ValueError):  # what is below says what is wrong with it
                self.values[key] = float(self.values[key])
        return self.take(key, float, default=default)


def config_files(places: Iterable[Path]) -> list[Path]:
    """The YAML files in the first of some folders that has any.

    Raises:
        ConfigError: if none has.
    """
    places = list(dict.fromkeys(places))
    for place in places:
        found = sorted(path for path in place.glob("*") if path.suffix in _SUFFIXES and path.is_file())
        if found:
            return found
    raise ConfigError(
        f"there is no config of the GPT-NeoX run: no YAML file in {', '.join(map(str, places))}",
        hint="put the .yml files that the model was trained with there: they give num_attention_heads, rotary_pct, ...",
    )


def read_config(files: Sequence[Path]) -> NeoxConfig:
    """The keys of all files together; ConfigError if a file cannot be read, or two contradict each other."""
    merged: dict[str, Any] = {}
    sources: dict[str, Path] = {}
    for path in files:
        for key, value in read_mapping(path).items():
            usual = key.replace("-", "_")
            if usual in merged and merged[usual] != value and usual in _USED.split():
                raise ConfigError(
                    f"{sources[usual]} and {path} give {usual!r} different values: {merged[usual]!r} and {value!r}",
                    hint="keep only the files that this model was trained with",
                )
            merged[usual], sources[usual] = value, path
    return NeoxConfig(merged)


def usual_end_of_text(config: NeoxConfig) -> int:
    """The id of the token that ends texts in the vocabularies that the library's users have."""
    return 50256 if "GPT2" in str(config.values.get("tokenizer_type")) else 0


def transformers_config(config: NeoxConfig, vocab: int, inner: int, ending: int) -> dict[str, Any]:
    """The config that transformers would have.

    Args:
        config: the run's.
        vocab: the rows of the stored embedding, padding included, which transformers keeps, too.
        inner: the width of the stored MLP.
        ending: the token that ends texts, and stands between them.

    Raises:
        ConfigError: if a key is missing, or the model is one that transformers' GPT-NeoX cannot be.
    """
    _refuse_variants(config)
    hidden = config.size("hidden_size")
    if config.size("intermediate_size", default=inner) != inner:
        raise config.invalid("intermediate_size", f"the stored weights have {inner}")
    longest = config.size("max_position_embeddings", default=0) or config.size("seq_length")
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": vocab,
        "hidden_size": int(hidden),
        "intermediate_size": inner,
        "num_hidden_layers": layer_count(config),
        "num_attention_heads": int(config.size("num_attention_heads")),
        "max_position_embeddings": int(longest),
        "hidden_act": _activation(config),
        "layer_norm_eps": config.real("layernorm_epsilon", 1e-5),
        "rotary_pct": _rotary(config),
        "rotary_emb_base": config.real("rotary_emb_base", 10000.0),
        "use_parallel_residual": config.take("gpt_j_residual", bool, default=False),
        "attention_bias": config.take("use_bias_in_attn_linear", bool, default=True),
        "tie_word_embeddings": is_tied(config),
        "bos_token_id": ending,
        "eos_token_id": ending,
    }


def layer_count(config: NeoxConfig) -> int:
    """How many blocks the model has; ConfigError if the config does not say it."""
    return int(config.size("num_layers"))


def is_tied(config: NeoxConfig) -> bool:
    """Whether the head is the embedding's table."""
    return not config.take("no_weight_tying", bool, default=False)


def _refuse_variants(config: NeoxConfig) -> None:
    """Keys that make the model another than transformers' GPT-NeoX."""
    config.only("norm", "layernorm", "te_layernorm")
    config.only("use_bias_in_norms", True)
    config.only("use_bias_in_mlp", True)
    config.only("use_qk_layernorm", False)
    config.only("use_mup", False)
    config.only("output_layer_parallelism", "column")
    config.only("sliding_window_width")
    config.only("soft_prompt_tuning", {"enabled": False}, {})
    config.only("num_unique_layers", config.values.get("num_layers"))
    config.only("train_impl", "normal", "dpo", "kto", "reinforce")
    for key in ("num_experts", "moe_num_experts"):
        config.only(key, 1, 0)
    config.only("num_kv_heads", config.values.get("num_attention_heads"))
    if config.take("gpt_j_residual", bool, default=False):
        config.only("gpt_j_tied", False)
    for kind in _attention_kinds(config.take("attention_config", list, default=[])):
        if kind not in ("global", "flash"):
            raise config.unsupported("attention_config", kind, ("global", "flash"))


def _attention_kinds(entries: Sequence[Any]) -> Iterator[Any]:
    """The kinds in a list such as `[[["global", "flash"], 6]]`, in which a number says how often, or in a plain one."""
    for entry in entries:
        if isinstance(entry, list):
            yield from _attention_kinds(entry)
        elif not isinstance(entry, int) and entry != "all":
            yield entry


def _activation(config: NeoxConfig) -> str:
    name = config.choice("activation", _ACTIVATIONS, default="gelu")
    fused = config.take("bias_gelu_fusion", bool, default=False)
    return "gelu_new" if fused and name == "gelu" else name


def _rotary(config: NeoxConfig) -> float:
    """The part of each head that rotates. What a run leaves out are learned positions, which transformers lacks."""
    if config.choice("pos_emb", {"rotary": True, "none": False}, default="learned"):
        return config.real("rotary_pct", 1.0)
    return 0.0
