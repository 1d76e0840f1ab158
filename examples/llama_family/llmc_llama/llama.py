"""Llama: 1, 2, 3 and 3.1 to 3.3, TinyLlama, SmolLM, Vicuna, and others whose `model_type` is `llama`."""

from __future__ import annotations

from compiler.errors import ConfigError
from compiler.frontends import frontend
from compiler.frontends.activations import ACTIVATIONS, Activation
from compiler.frontends.attention import Attention
from compiler.frontends.config import Config
from compiler.frontends.derived import turns_by
from compiler.frontends.lifting import Lifting, divide
from compiler.frontends.modules import embed, linear, output_head, rms_norm
from compiler.frontends.rope import Rope, scaled_rope
from compiler.frontends.step import ModelShape, StepBuilder
from compiler.ir.op import Value


@frontend("llama", "LlamaForCausalLM", special_tokens={"bos": 1, "eos": 2})
def lift_llama(lifting: Lifting) -> None:
    """RMSNorm before each half of a layer, query heads that share key heads, rotary positions, and a gated MLP."""
    config = lifting.config
    hidden = config.size("hidden_size")
    heads = config.size("num_attention_heads")
    kv_heads = config.size("num_key_value_heads", default=heads)
    inner = config.size("intermediate_size")
    eps = config.take("rms_norm_eps", float, default=1e-6)
    act = config.choice("hidden_act", ACTIVATIONS, default="silu")
    attention_bias = config.take("attention_bias", bool, default=False)
    mlp_bias = config.take("mlp_bias", bool, default=False)
    tied = config.take("tie_word_embeddings", bool, default=False)
    head_dim = config.size("head_dim", default=divide(config, "hidden_size", hidden, "num_attention_heads", heads))
    context = config.size("max_position_embeddings", default=2048)
    rope = _rope(config, head_dim, context)
    # How the weights were split over machines when the model was trained; what is computed is the same.
    config.ignore("pretraining_tp", "attention_dropout")
    shape = ModelShape(
        vocab=config.size("vocab_size"),
        context=context,
        layers=config.size("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        positions="rotary",
    )

    step = lifting.begin(shape)
    b, weights = step.b, step.weights
    base = weights.base("model.", "", holding="layers.0.")
    tied = weights.ties(tied, f"{base}embed_tokens", "lm_head")
    weights.derived(r".*\.inv_freq", turns_by(rope), f"the rotary positions in {lifting.checkpoint.config_name}")
    attention = Attention(scale=head_dim**-0.5, mask=step.causal_mask(), angles=step.angles(rope))
    x, table = embed(step, f"{base}embed_tokens", hidden, tied_to=("lm_head",) if tied else ())
    for i in range(shape.layers):
        module = f"{base}layers.{i}"
        with b.scope(f"layers.{i}", module):
            normed = rms_norm(step, x, f"{module}.input_layernorm", hidden, scope="ln1", eps=eps)
            attended = _attention(step, normed, f"{module}.self_attn", i, attention, bias=attention_bias)
            x = b.add(x, attended, name="after_attn")
            normed = rms_norm(step, x, f"{module}.post_attention_layernorm", hidden, scope="ln2", eps=eps)
            x = b.add(x, _mlp(step, normed, f"{module}.mlp", inner, act, bias=mlp_bias), name="after_mlp")
    x = rms_norm(step, step.logit_rows(x), f"{base}norm", hidden, scope="final_norm", eps=eps)
    with b.scope("lm_head", f"{base}embed_tokens" if tied else "lm_head"):
        lifting.finish(step, b.linear(*output_head(step, x, table, hidden, "lm_head", tied=tied), name="logits"))


def _attention(step: StepBuilder, x: Value, module: str, layer: int, attention: Attention, *, bias: bool) -> Value:
    """Query heads come in groups, one for each key head; `Attention` says which belong together."""
    shape = step.shape
    outputs = {"q": shape.heads, "k": shape.kv_heads, "v": shape.kv_heads}
    with step.b.scope("attn", module):
        q, k, v = (
            linear(step, x, f"{module}.{name}_proj", heads * shape.head_dim, shape.hidden, name=name, bias=bias)
            for name, heads in outputs.items()
        )
        y = attention.cached(step, layer, q, k, v)
        return linear(step, y, f"{module}.o_proj", shape.hidden, shape.heads * shape.head_dim, name="out", bias=bias)


def _mlp(step: StepBuilder, x: Value, module: str, inner: int, act: Activation, *, bias: bool) -> Value:
    """`down(act(gate(x)) * up(x))` (Shazeer, 2020)."""
    b, hidden = step.b, step.shape.hidden
    with b.scope("mlp", module):
        gate = linear(step, x, f"{module}.gate_proj", inner, hidden, name="gate", bias=bias)
        up = linear(step, x, f"{module}.up_proj", inner, hidden, name="up", bias=bias)
        y = b.mul(act(b, gate), up, name="gated")
        return linear(step, y, f"{module}.down_proj", hidden, inner, name="down", bias=bias)


def _rope(config: Config, head_dim: int, context: int) -> Rope:
    """Old configs say `rope_theta` and `rope_scaling`, new ones put both into `rope_parameters`."""
    old = config.section("rope_scaling")
    section = old if old.values else config.section("rope_parameters")
    base = section.take("rope_theta", float, default=config.take("rope_theta", float, default=10000.0))
    original = config.size("original_max_position_embeddings", default=None)
    config.only("partial_rotary_factor", 1.0)
    section.only("partial_rotary_factor", 1.0)
    if head_dim % 2:
        raise config.invalid("head_dim", "it must be even: dims rotate in pairs")
    if base <= 1:
        raise ConfigError(f"the config's base of rotary positions ('rope_theta') is {base}; it must be above 1")
    return scaled_rope(section, head_dim, base, head_dim=head_dim, context=context, original=original)
