"""GPT-NeoX: Pythia, GPT-NeoX-20B, RedPajama-INCITE, StableLM-alpha, Dolly."""

from __future__ import annotations

from compiler.errors import ConfigError
from compiler.frontends.activations import ACTIVATIONS
from compiler.frontends.attention import Attention
from compiler.frontends.config import Config, Size
from compiler.frontends.derived import is_causal, turns_by
from compiler.frontends.lifting import Lifting, divide
from compiler.frontends.modules import embed, layer_norm, linear, mlp, output_head
from compiler.frontends.registry import frontend
from compiler.frontends.rope import Rope, scaled_rope
from compiler.frontends.step import ModelShape, StepBuilder
from compiler.ir.op import Value

# What checkpoints call the head.
_HEAD = ("embed_out", "lm_head")


@frontend("gpt_neox", "GPTNeoXForCausalLM", special_tokens={"bos": 0, "eos": 2})
def lift_gpt_neox(lifting: Lifting) -> None:
    """`x + attn(ln1 x) + mlp(ln2 x)`, or one after the other; rotary positions on part of each head."""
    config = lifting.config
    hidden = config.size("hidden_size")
    heads = config.size("num_attention_heads")
    inner = config.size("intermediate_size", default=Size(24576, "intermediate_size"))
    eps = config.take("layer_norm_eps", float, default=1e-5)
    act = config.choice("hidden_act", ACTIVATIONS, default="gelu")
    parallel = config.take("use_parallel_residual", bool, default=True)
    bias = config.take("attention_bias", bool, default=True)
    tied = config.take("tie_word_embeddings", bool, default=False)
    head_dim = divide(config, "hidden_size", hidden, "num_attention_heads", heads)
    context = config.size("max_position_embeddings", default=2048)
    rope = _rope(config, head_dim, context)
    config.only("head_dim", head_dim)
    config.only("pruned_heads", {})
    config.ignore("attention_dropout", "hidden_dropout", "classifier_dropout")
    config.ignore("attention_probs_dropout_prob", "hidden_dropout_prob")
    shape = ModelShape(
        vocab=config.size("vocab_size"),
        context=context,
        layers=config.size("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        positions="rotary" if rope else "none",
    )

    step = lifting.begin(shape)
    b, weights = step.b, step.weights
    base = weights.base("gpt_neox.", "", holding="layers.0.")
    tied = weights.ties(tied, f"{base}embed_in", *_HEAD)
    weights.derived(r".*\.attention\.(bias|masked_bias)", is_causal, "the causal mask of this family")
    weights.derived(r".*\.inv_freq", turns_by(rope), f"'rotary_emb_base' in {lifting.checkpoint.config_name}")
    attention = Attention(scale=head_dim**-0.5, mask=step.causal_mask(), angles=step.angles(rope) if rope else None)
    x, table = embed(step, f"{base}embed_in", hidden, tied_to=_HEAD if tied else ())
    for i in range(shape.layers):
        module = f"{base}layers.{i}"
        with b.scope(f"layers.{i}", module):
            normed = layer_norm(step, x, f"{module}.input_layernorm", hidden, scope="ln1", eps=eps)
            attended = _attention(step, normed, f"{module}.attention", i, attention, bias=bias)
            after = b.add(x, attended, name="after_attn")
            second = x if parallel else after
            normed = layer_norm(step, second, f"{module}.post_attention_layernorm", hidden, scope="ln2", eps=eps)
            y = mlp(step, normed, f"{module}.mlp", "dense_h_to_4h", "dense_4h_to_h", hidden, inner, act, bias=True)
            x = b.add(after, y, name="after_mlp")
    x = layer_norm(step, step.logit_rows(x), f"{base}final_layer_norm", hidden, scope="final_norm", eps=eps)
    with b.scope("lm_head", f"{base}embed_in" if tied else "embed_out"):
        lifting.finish(step, b.linear(*output_head(step, x, table, hidden, *_HEAD, tied=tied), name="logits"))


def _attention(step: StepBuilder, x: Value, module: str, layer: int, attention: Attention, *, bias: bool) -> Value:
    """The rows of the fused projection are `[heads, (q k v), head_dim]`."""
    b, heads, width, hidden = step.b, step.shape.heads, step.shape.head_dim, step.shape.hidden
    with b.scope("attn", module):
        fused = Size(3 * hidden, f"3 * {hidden.origin}")
        parts = [
            step.weights.take_parts(
                f"{module}.query_key_value.weight",
                fused,
                hidden,
                name="qkv_weight",
                split=lambda value, word: _unfused(step, value, word),
                names=("q.weight", "k.weight", "v.weight"),
            )
        ]
        if bias or step.weights.adds_bias(f"{module}.query_key_value"):
            offset = step.weights.take(f"{module}.query_key_value.bias", fused, name="qkv_bias")
            parts.append(_unfused(step, offset, "bias"))
        x = step.weights.input(f"{module}.query_key_value", x)
        q, k, v = (b.linear(x, *pair, name=name) for name, pair in zip("qkv", zip(*parts, strict=True), strict=True))
        y = attention.cached(step, layer, q, k, v)
        return linear(step, y, f"{module}.dense", hidden, heads * width, name="out", bias=bias)


def _unfused(step: StepBuilder, fused: Value, word: str) -> list[Value]:
    """The parts of a fused weight or bias that make q, k and v; `word` says what it is."""
    b, heads, width = step.b, step.shape.heads, step.shape.head_dim
    rest = fused.type.shape[1:]
    by_head = b.reshape(fused, shape=(heads, 3, width, *rest), name=f"qkv_{word}_by_head")
    names = tuple(f"{part}_{word}_by_head" for part in "qkv")
    parts = b.split(by_head, axis=1, sizes=(1, 1, 1), names=names)
    return [
        b.reshape(part, shape=(heads * width, *rest), name=f"{name}.{word}")
        for name, part in zip("qkv", parts, strict=True)
    ]


def _rope(config: Config, head_dim: int, context: int) -> Rope | None:
    """Old configs say `rotary_pct`, `rotary_emb_base` and `rope_scaling`, new ones put all into `rope_parameters`.

    None if no dim rotates.
    """
    old = config.section("rope_scaling")
    section = old if old.values else config.section("rope_parameters")
    fraction = config.take("rotary_pct", float, aliases=("partial_rotary_factor",), default=0.25)
    base = config.take("rotary_emb_base", float, aliases=("rope_theta",), default=10000.0)
    fraction = section.take("partial_rotary_factor", float, default=fraction)
    base = section.take("rope_theta", float, default=base)
    original = config.size("original_max_position_embeddings", default=None)
    if not 0 <= fraction <= 1:
        raise ConfigError(f"the config rotates {fraction} of each head ('rotary_pct'); it must be from 0 to 1")
    if base <= 1:
        raise ConfigError(f"the config's base of rotary positions ('rotary_emb_base') is {base}; it must be above 1")
    width = int(head_dim * fraction)
    rope = scaled_rope(section, width, base, head_dim=head_dim, context=context, original=original)
    if 2 * len(rope.frequencies) > head_dim:
        raise ConfigError(f"the config rotates {2 * len(rope.frequencies)} of the {head_dim} dims of each head")
    return rope if rope.frequencies else None
