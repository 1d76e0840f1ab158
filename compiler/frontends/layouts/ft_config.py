"""What the `config.ini` of a FasterTransformer directory says of the model.

TensorRT-LLM's first converters wrote such directories as well, with other names for some keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import ConfigError
from compiler.frontends.layouts.ini_file import Section, read_sections
from compiler.ir.dtypes import DType

_TYPES = {
    "fp32": DType.f32,
    "float32": DType.f32,
    "fp16": DType.f16,
    "float16": DType.f16,
    "bf16": DType.bf16,
    "bfloat16": DType.bf16,
}
# Of these families config.ini does not say how long sequences may be.
_CONTEXT = 2048
_SECTIONS = ("gptneox", "gptj", "gpt")


@dataclass(frozen=True)
class FtModel:
    """The sizes of a model, as they lay out its files.

    Attributes:
        family: the `model_type` of the frontend that reads it.
        section: its section of `config.ini`.
        dtype: the element type of weights.
        heads: how many heads queries have.
        kv_heads: how many heads keys and values have.
        head_dim: the width of a head.
        inner: the width of the MLP.
        layers: how many layers.
        vocab: how many tokens.
        context: how many positions.
        tasks: the sections of its prompts.
    """

    family: str
    section: Section
    dtype: DType
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    layers: int
    vocab: int
    context: int
    tasks: tuple[Section, ...]

    @property
    def hidden(self) -> int:
        """The width of the model."""
        return self.heads * self.head_dim

    @property
    def tokens(self) -> dict[str, int | None]:
        """The tokens that begin and end texts."""
        ends = {"bos": ("start_id", "bos_token_id"), "eos": ("end_id", "eos_token_id")}
        return {f"{name}_token_id": self.section.token(*keys) for name, keys in ends.items()}


def read_model(path: Path) -> FtModel:
    """The model of a `config.ini`; ConfigError if a key is missing or wrong, or the model is not supported."""
    sections = read_sections(path)
    name = next((name for name in _SECTIONS if name in sections), None)
    if name is None:
        raise ConfigError(
            f"{path} has none of the sections {', '.join(f'[{known}]' for known in _SECTIONS)}",
            hint="other models of FasterTransformer are not supported",
        )
    section = sections[name]
    heads = section.integer("head_num", "n_head")
    if "size_per_head" in section.values:
        head_dim = section.integer("size_per_head")
    else:
        width = section.integer("n_embd", "size_per_head")
        if width % heads:
            raise section.invalid(("n_embd",), f"{heads} heads do not divide it")
        head_dim = width // heads
    return FtModel(
        family=_family(section),
        section=section,
        dtype=_dtype(section),
        heads=heads,
        kv_heads=section.integer("n_kv_head", default=heads),
        head_dim=head_dim,
        inner=section.integer("inter_size", "n_inner", "intermediate_size", default=4 * heads * head_dim),
        layers=section.integer("num_layer", "n_layer"),
        vocab=section.integer("vocab_size"),
        context=section.integer("max_pos_seq_len", "n_positions", default=_CONTEXT),
        tasks=tuple(found for name, found in sections.items() if name.startswith("task_")),
    )


def _family(section: Section) -> str:
    """OPT is told by its ReLU; what else has this layout is read as MPT, of which it is a variant."""
    if section.flag("has_adapters", default=False):
        raise section.invalid(("has_adapters",), "models with adapters are not supported")
    if section.flag("has_pre_decoder_layernorm", default=False):
        raise section.invalid(("has_pre_decoder_layernorm",), "such models, BLOOM's, are not supported")
    if section.name != "gpt":
        return {"gptneox": "gpt_neox", "gptj": "gptj"}[section.name]
    name = activation(section)
    if name not in ("gelu", "relu"):
        raise section.invalid(("activation_type", "activation_function"), "supported are Gelu and Relu")
    return "opt" if name == "relu" else "mpt"


def activation(section: Section) -> str:
    """The activation function, in lower case."""
    return section.text("activation_type", "activation_function", default="gelu").lower()


def has_alibi(section: Section) -> bool:
    """Whether positions enter by ALiBi."""
    by_name = section.text("position_embedding_type").lower() == "alibi"
    return section.flag("use_attention_linear_bias", default=by_name)


def is_gpt(section: Section, *, bias: bool) -> bool:
    """Whether a model of the family of MPT is a GPT such as GPT-2: MPTs have ALiBi, or at least no biases."""
    return bias and not has_alibi(section)


def norms_first(section: Section) -> bool:
    """Whether norms stand before each half of a layer, or after it."""
    said = section.text("layernorm_type", "norm_position_type", default="pre_layernorm").lower()
    if said not in ("pre", "pre_layernorm", "post", "post_layernorm"):
        raise section.invalid(("layernorm_type", "norm_position_type"), "it must be pre_layernorm or post_layernorm")
    return said.startswith("pre")


def _dtype(section: Section) -> DType:
    name = section.text("weight_data_type", "storage_dtype", default="fp32").lower()
    if name not in _TYPES:
        raise section.invalid(("weight_data_type", "storage_dtype"), f"supported: {', '.join(_TYPES)}")
    return _TYPES[name]


def neox_config(m: FtModel) -> dict[str, Any]:
    """The config of a GPT-NeoX model. FasterTransformer knows no other epsilon, base or activation than these."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": m.family,
        "vocab_size": m.vocab,
        "hidden_size": m.hidden,
        "intermediate_size": m.inner,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "max_position_embeddings": m.context,
        "hidden_act": "gelu",
        "layer_norm_eps": m.section.number("layernorm_eps", default=1e-5),
        "rotary_pct": _fraction(_rotary(m), m.head_dim),
        "rotary_emb_base": 10000.0,
        "use_parallel_residual": m.section.flag("use_gptj_residual", default=True),
        **m.tokens,
    }


def gptj_config(m: FtModel) -> dict[str, Any]:
    """The config of a GPT-J model."""
    return {
        "architectures": ["GPTJForCausalLM"],
        "model_type": m.family,
        "vocab_size": m.vocab,
        "n_embd": m.hidden,
        "n_inner": m.inner,
        "n_layer": m.layers,
        "n_head": m.heads,
        "n_positions": m.context,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": m.section.number("layernorm_eps", default=1e-5),
        "rotary_dim": _rotary(m),
        **m.tokens,
    }


def opt_config(m: FtModel, *, final_norm: bool, tied: bool) -> dict[str, Any]:
    """The config of an OPT model."""
    if m.section.number("layernorm_eps", default=1e-5) != 1e-5:
        raise m.section.invalid(("layernorm_eps",), "OPT has 1e-5")
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": m.family,
        "vocab_size": m.vocab,
        "hidden_size": m.hidden,
        "word_embed_proj_dim": m.hidden,
        "ffn_dim": m.inner,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "max_position_embeddings": m.context,
        "activation_function": "relu",
        "do_layer_norm_before": norms_first(m.section),
        "_remove_final_layer_norm": not final_norm,
        "tie_word_embeddings": tied,
        **m.tokens,
    }


def mpt_config(m: FtModel, *, bias: bool, tied: bool) -> dict[str, Any]:
    """The config of an MPT model, or of a GPT as a variant of it: with learned positions, biases and GELU by tanh."""
    if not norms_first(m.section):
        raise m.section.invalid(("layernorm_type", "norm_position_type"), "it must be pre_layernorm with GELU")
    alibi = has_alibi(m.section)
    learned = m.section.flag("has_positional_encoding", default=not alibi)
    return {
        "architectures": ["MPTForCausalLM"],
        "model_type": m.family,
        "vocab_size": m.vocab,
        "d_model": m.hidden,
        "n_heads": m.heads,
        "n_layers": m.layers,
        "max_seq_len": m.context,
        "no_bias": not bias,
        "learned_pos_emb": learned,
        "attn_config": {"alibi": alibi, "kv_n_heads": None if m.kv_heads == m.heads else m.kv_heads},
        "ffn_config": {
            "ffn_hidden_size": m.inner,
            "ffn_act_fn": {"name": "gelu", "approximate": "tanh" if is_gpt(m.section, bias=bias) else "none"},
        },
        "norm_eps": m.section.number("layernorm_eps", "layer_norm_epsilon", default=1e-6),
        "norm_type": "low_precision_layernorm",
        "tie_word_embeddings": tied,
        **m.tokens,
    }


def _rotary(m: FtModel) -> int:
    width = m.section.integer("rotary_embedding", default=m.head_dim)
    if width > m.head_dim:
        raise m.section.invalid(("rotary_embedding",), f"a head has {m.head_dim} dims")
    return width


def _fraction(part: int, whole: int) -> float:
    """The fraction of `whole` that, cut to an integer, is `part`."""
    fraction = part / whole
    return fraction if int(whole * fraction) == part else (part + 0.5) / whole
