"""What an MPT config means: the keys of llm-foundry, where transformers has fewer, and both sets of defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from compiler.errors import ConfigError
from compiler.frontends.activations import ACTIVATIONS, Activation
from compiler.frontends.config import Config, Size
from compiler.frontends.lifting import divide
from compiler.frontends.mpt_layers import LayerPlan, layer_plans
from compiler.frontends.rope import Rope, plain_rope, scaled_rope

# norm_type → whether it is an RMSNorm, which has no bias.
_NORMS = {
    "layernorm": False,
    "low_precision_layernorm": False,
    "low_precision_rmsnorm": True,
    "rmsnorm": True,
    "triton_rmsnorm": True,
}
# Names in torch.nn.functional → names in transformers, where they differ in kind or are common to both.
_FUNCTIONS = ("gelu", "hardswish", "leaky_relu", "relu", "relu6", "sigmoid", "silu", "tanh")


@dataclass(frozen=True)
class Norm:
    """A kind of norm: `rms` or LayerNorm, its epsilon, and whether it has a bias."""

    rms: bool
    eps: float
    bias: bool


@dataclass(frozen=True)
class MptConfig:
    """An MPT model, defaults filled in. `qk_norm_by_head` matters only where there is a `qk_norm`."""

    hidden: Size
    heads: int
    kv_heads: int
    head_dim: int
    vocab: Size
    context: Size
    layers: tuple[LayerPlan, ...]
    bias: bool
    tied: bool
    norm: Norm
    qk_norm: Norm | None
    qk_norm_by_head: bool
    fused_qkv: bool
    clip_qkv: float | None
    scale: float
    softcap: float | None
    alibi_bias_max: float | None
    rope: Rope | None
    learned: bool
    gated: bool
    inner: Size
    act: Activation
    logit_scale: float | None
    logit_softcap: float | None
    fused_norms: bool

    @property
    def positions(self) -> str:
        """How positions enter: `alibi`, `rotary`, `learned`, joined by `+`, or `none`."""
        ways = (
            ("alibi", self.alibi_bias_max is not None),
            ("rotary", self.rope is not None),
            ("learned", self.learned),
        )
        return "+".join(name for name, used in ways if used) or "none"


def read_mpt_config(config: Config) -> MptConfig:
    """The model that the config describes; ConfigError for values that are not supported."""
    attn = config.section("attn_config")
    # The class's spelling tells whose defaults a missing key has.
    foundry = "MPTForCausalLM" in (config.values.get("architectures") or [])
    hidden = config.size("d_model", aliases=("hidden_size",))
    heads = config.size("n_heads", aliases=("num_attention_heads",))
    head_dim = config.size("head_dim", default=None) or divide(config, "d_model", hidden, "n_heads", heads)
    context = config.size("max_seq_len", default=Size(2048, "max_seq_len"))
    bias = not config.take("no_bias", bool, default=not foundry)
    norm = Norm(
        _is_rms(config, "norm_type"),
        config.take("norm_eps", float, aliases=("layer_norm_epsilon",), default=1e-5),
        bias,
    )
    alibi_bias_max = attn.take("alibi_bias_max", float, default=8.0)
    alibi = attn.take("alibi", bool, default=not foundry)
    rope = _rope(attn, head_dim, context)
    learned = config.take("learned_pos_emb", bool, default=True) and not (alibi or rope)
    gated, inner, act = _ffn(config, hidden)
    _qk_norms(attn)
    window = attn.take("sliding_window_size", int, default=-1)
    count = config.size("n_layers", aliases=("num_hidden_layers",))
    overrides = config.section("block_overrides")
    result = MptConfig(
        hidden=hidden,
        heads=heads,
        kv_heads=_kv_heads(attn, heads),
        head_dim=head_dim,
        vocab=config.size("vocab_size"),
        context=context,
        layers=layer_plans(overrides, count, window, rotary=rope is not None),
        bias=bias,
        tied=config.take("tie_word_embeddings", bool, default=True),
        norm=norm,
        qk_norm=_qk_norm(attn, bias),
        qk_norm_by_head=attn.take("qk_gn", bool, default=False),
        fused_qkv=attn.take("fused_qkv", bool, default=True),
        clip_qkv=_positive(attn, "clip_qkv"),
        scale=attn.take("softmax_scale", float, default=1 / math.sqrt(head_dim)),
        softcap=_positive(attn, "attn_logit_softcapping"),
        alibi_bias_max=alibi_bias_max if alibi else None,
        rope=rope,
        learned=learned,
        gated=gated,
        inner=inner,
        act=act,
        logit_scale=_logit_scale(config, hidden),
        logit_softcap=_positive(config, "final_logit_softcapping"),
        fused_norms=config.take("fuse_norm_attn_norm", bool, default=False),
    )
    _reject_or_ignore(config, attn)
    return result


def _reject_or_ignore(config: Config, attn: Config) -> None:
    """Keys that would change the computation at other values, and keys that only matter in training."""
    attn.only("prefix_lm", False)
    attn.only("nope", False)
    attn.only("kv_dim", config.values.get("d_model"))
    attn.only("flex_attn_mod_list", [])
    tuning = attn.section("attn_temperature_tuning")
    tuning.only("attn_scale", 0.0)
    tuning.ignore("floor_scale")
    attn.ignore("attn_impl", "attn_pdrop", "attn_uses_sequence_id", "seq_parallel_world_size", "dtype", "torch_dtype")
    config.only("residual_modification")
    config.ignore("emb_pdrop", "resid_pdrop", "embedding_fraction", "init_config", "init_device", "fc_type", "loss_fn")
    config.ignore("use_pad_tok_in_ffn", "activation_checkpointing_target", "init_std", "residual_coeff")


def _kv_heads(attn: Config, heads: int) -> int:
    given = attn.size("kv_n_heads", default=None)
    kinds = {"multihead_attention": heads, "multiquery_attention": 1, "grouped_query_attention": given}
    kv_heads = attn.choice("attn_type", kinds, default="grouped_query_attention" if given else "multihead_attention")
    if kv_heads is None:
        raise ConfigError("the config key 'attn_config.kv_n_heads' is missing; grouped_query_attention needs it")
    if given not in (None, kv_heads):
        raise attn.invalid("kv_n_heads", f"{attn.values['attn_type']} has {kv_heads}")
    if heads % kv_heads:
        raise attn.invalid("kv_n_heads", f"it must divide 'n_heads', which is {heads}")
    return kv_heads


def _qk_norms(attn: Config) -> None:
    if attn.values.get("qk_ln") and attn.values.get("qk_gn"):
        raise attn.invalid("qk_gn", "'attn_config.qk_ln' is set too, and only one of them can be")


def _qk_norm(attn: Config, bias: bool) -> Norm | None:
    """llm-foundry does not hand the model's norm_type to its attention, so that its own default holds there."""
    used = attn.take("qk_ln", bool, default=False) or attn.take("qk_gn", bool, default=False)
    norm = Norm(_is_rms(attn, "norm_type"), attn.take("norm_eps", float, default=1e-5), bias)
    return norm if used else None


def _is_rms(config: Config, key: str) -> bool:
    value = config.take(key, str, default="low_precision_layernorm")
    if value.lower() not in _NORMS:
        raise config.unsupported(key, value, _NORMS)
    return _NORMS[value.lower()]


def _rope(attn: Config, head_dim: int, context: int) -> Rope | None:
    """Both implementations that llm-foundry knows rotate halves of the whole head."""
    theta = attn.take("rope_theta", float, default=10000.0)
    hf, dail = attn.section("rope_hf_config"), attn.section("rope_dail_config")
    dail.ignore("pos_idx_in_fp32", "xpos_scale_base")
    impl = attn.choice("rope_impl", {"dail": "dail", "hf": "hf"}, default="dail")
    if not attn.take("rope", bool, default=False):
        hf.ignore(*hf.values)
        dail.ignore(*dail.values)
        return None
    if head_dim % 2:
        raise ConfigError(f"rotary positions need an even number of dims a head; the config gives {head_dim}")
    if impl == "hf":
        rope = scaled_rope(hf, head_dim, theta, head_dim=head_dim, context=context)
        hf.ignore("factor")
        return rope
    hf.ignore(*hf.values)
    dail.only("type", "original")
    return plain_rope(head_dim, theta)


def _ffn(config: Config, hidden: Size) -> tuple[bool, Size, Activation]:
    """Whether the MLP is gated, its width and its activation."""
    ffn = config.section("ffn_config")
    ffn.ignore("fc_type", "bias", "return_bias")
    gated = ffn.choice("ffn_type", {"mptmlp": False, "mptglu": True}, default="mptmlp")
    ratio = config.take("expansion_ratio", float, default=4.0)
    inner = hidden * ratio
    if inner < 1 or not inner.is_integer():
        raise config.invalid("expansion_ratio", f"d_model * expansion_ratio is {inner:g}; it must be a whole number")
    width = ffn.size("ffn_hidden_size", default=Size(int(inner), "d_model * expansion_ratio"))
    function = ffn.section("ffn_act_fn")
    name = function.choice("name", {name: name for name in _FUNCTIONS}, default="gelu")
    function.only("negative_slope", 0.01)
    tanh = function.choice("approximate", {"none": False, "tanh": True}, default="none")
    function.ignore("inplace")
    return gated, width, ACTIVATIONS["gelu_new" if tanh and name == "gelu" else name]


def _logit_scale(config: Config, hidden: int) -> float | None:
    if not isinstance(config.values.get("logit_scale"), str):
        return config.take("logit_scale", float, default=None)
    named: dict[str, Callable[[], float]] = {"inv_sqrt_d_model": lambda: 1 / math.sqrt(hidden)}
    return config.choice("logit_scale", named, default="inv_sqrt_d_model")()


def _positive(config: Config, key: str) -> float | None:
    """A bound: null and 0 mean none."""
    value = config.take(key, float, default=0.0)
    if value < 0:
        raise config.invalid(key, "it must not be negative")
    return value or None
