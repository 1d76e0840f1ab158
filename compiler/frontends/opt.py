"""OPT, and Galactica."""

from __future__ import annotations

from compiler.frontends.activations import ACTIVATIONS
from compiler.frontends.attention import Attention
from compiler.frontends.config import Size
from compiler.frontends.lifting import Lifting, divide
from compiler.frontends.modules import (
    embed,
    layer_norm,
    learned_positions,
    linear,
    mlp,
    output_head,
    projected_attention,
)
from compiler.frontends.registry import frontend
from compiler.frontends.step import ModelShape
from compiler.ir.op import Value

# The position table starts with two rows that no token uses.
_UNUSED_POSITIONS = 2


@frontend("opt", "OPTForCausalLM", special_tokens={"bos": 2, "eos": 2, "pad": 1})
def lift_opt(lifting: Lifting) -> None:
    """Norm before each half of a layer, or (350m) after its residual; embeddings may be narrower than the model."""
    config = lifting.config
    hidden = config.size("hidden_size")
    heads = config.size("num_attention_heads")
    inner = config.size("ffn_dim", default=Size(3072, "ffn_dim"))
    narrow = config.size("word_embed_proj_dim", default=hidden)
    context = config.size("max_position_embeddings", default=Size(2048, "max_position_embeddings"))
    act = config.choice("activation_function", ACTIVATIONS, default="relu")
    norm_first = config.take("do_layer_norm_before", bool, default=True)
    no_final_norm = config.take("_remove_final_layer_norm", bool, default=False) or not norm_first
    bias = config.take("enable_bias", bool, default=True)
    affine = config.take("layer_norm_elementwise_affine", bool, default=True)
    tied = config.take("tie_word_embeddings", bool, default=True)
    head_dim = divide(config, "hidden_size", hidden, "num_attention_heads", heads)
    config.only("scale_embeddings", False)
    config.only("learned_embeddings", True)
    config.ignore("dropout", "attention_dropout", "activation_dropout", "layerdrop", "init_std")
    shape = ModelShape(
        vocab=config.size("vocab_size"),
        context=context,
        layers=config.size("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        positions="learned",
        learned=context,
    )

    step = lifting.begin(shape)
    b, weights = step.b, step.weights
    base = weights.base("model.decoder.", "decoder.", "", holding="layers.0.")
    tied = weights.ties(tied, f"{base}embed_tokens", "lm_head")
    attention = Attention(scale=head_dim**-0.5, mask=step.causal_mask())

    def norm(x: Value, module: str, scope: str) -> Value:
        return layer_norm(step, x, f"{base}{module}", hidden, scope=scope, eps=1e-5, weight=affine, bias=affine)

    x, table = embed(step, f"{base}embed_tokens", narrow, tied_to=("lm_head",) if tied else ())
    positions = learned_positions(step, f"{base}embed_positions", context, hidden, unused=_UNUSED_POSITIONS)
    with b.scope("embed", base.rstrip(".")):
        if narrow != hidden:
            x = linear(step, x, f"{base}project_in", hidden, narrow, name="project_in", bias=False)
        x = b.add(x, positions, name="sum")
    for i in range(shape.layers):
        module = f"layers.{i}"
        with b.scope(module, f"{base}{module}"):
            ln1, ln2 = f"{module}.self_attn_layer_norm", f"{module}.final_layer_norm"
            normed = norm(x, ln1, "ln1") if norm_first else x
            attended = projected_attention(step, normed, f"{base}{module}.self_attn", i, attention, bias=bias)
            x = b.add(x, attended, name="after_attn")
            x = x if norm_first else norm(x, ln1, "ln1")
            normed = norm(x, ln2, "ln2") if norm_first else x
            y = mlp(step, normed, f"{base}{module}", "fc1", "fc2", hidden, inner, act, bias=bias)
            x = b.add(x, y, name="after_mlp")
            x = x if norm_first else norm(x, ln2, "ln2")
    x = step.logit_rows(x)
    if not no_final_norm:
        x = norm(x, "final_layer_norm", "final_norm")
    with b.scope("lm_head", f"{base}embed_tokens" if tied else "lm_head"):
        if narrow != hidden:
            x = linear(step, x, f"{base}project_out", narrow, hidden, name="project_out", bias=False)
        lifting.finish(step, b.linear(*output_head(step, x, table, narrow, "lm_head", tied=tied), name="logits"))
