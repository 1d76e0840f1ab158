"""GPT-J."""

from __future__ import annotations

from compiler.frontends.activations import ACTIVATIONS
from compiler.frontends.attention import Attention
from compiler.frontends.config import Size
from compiler.frontends.derived import is_causal, turns_by
from compiler.frontends.lifting import Lifting, divide
from compiler.frontends.modules import embed, layer_norm, mlp, output_head, projected_attention
from compiler.frontends.registry import frontend
from compiler.frontends.rope import plain_rope
from compiler.frontends.step import ModelShape


@frontend("gptj", "GPTJForCausalLM", special_tokens={"bos": 50256, "eos": 50256})
def lift_gptj(lifting: Lifting) -> None:
    """`x + attn(ln x) + mlp(ln x)` with one norm; interleaved rotary positions on the first `rotary_dim` dims."""
    config = lifting.config
    hidden = config.size("n_embd", aliases=("hidden_size",))
    heads = config.size("n_head", aliases=("num_attention_heads",))
    inner = config.size("n_inner", default=Size(4 * hidden, "4 * n_embd"))
    eps = config.take("layer_norm_epsilon", float, default=1e-5)
    act = config.choice("activation_function", ACTIVATIONS, default="gelu_new")
    tied = config.take("tie_word_embeddings", bool, default=False)
    head_dim = divide(config, "n_embd", hidden, "n_head", heads)
    # transformers takes 64 where the key is absent, and all dims where it is null.
    rotary_dim = config.size("rotary_dim", default=head_dim if "rotary_dim" in config.values else 64)
    if rotary_dim % 2 or rotary_dim > head_dim:
        raise config.invalid("rotary_dim", f"it must be even and at most the head's {head_dim} dims")
    config.only("rotary", True)
    config.only("scale_attn_weights", True)
    config.only("pruned_heads", {})
    config.ignore("resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx")
    config.ignore(
        "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"
    )
    shape = ModelShape(
        vocab=config.size("vocab_size"),
        context=config.size("n_positions", aliases=("max_position_embeddings",), default=2048),
        layers=config.size("n_layer", aliases=("num_hidden_layers",)),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        positions="rotary",
    )

    step = lifting.begin(shape)
    b, weights = step.b, step.weights
    base = weights.base("transformer.", "", holding="h.0.")
    tied = weights.ties(tied, f"{base}wte", "lm_head")
    rope = plain_rope(rotary_dim, 10000.0)
    weights.derived(r".*\.attn\.(bias|masked_bias)", is_causal, "the causal mask of this family")
    weights.derived(r".*\.attn\.embed_positions", turns_by(rope), f"'rotary_dim' in {lifting.checkpoint.config_name}")
    attention = Attention(
        scale=head_dim**-0.5,
        mask=step.causal_mask(),
        angles=step.angles(rope),
        interleaved=True,
    )
    x, table = embed(step, f"{base}wte", hidden, tied_to=("lm_head",) if tied else ())
    for i in range(shape.layers):
        module = f"{base}h.{i}"
        with b.scope(f"layers.{i}", module):
            normed = layer_norm(step, x, f"{module}.ln_1", hidden, scope="ln1", eps=eps)
            attended = projected_attention(step, normed, f"{module}.attn", i, attention, bias=False)
            after = b.add(x, attended, name="after_attn")
            y = mlp(step, normed, f"{module}.mlp", "fc_in", "fc_out", hidden, inner, act, bias=True)
            x = b.add(after, y, name="after_mlp")
    x = layer_norm(step, step.logit_rows(x), f"{base}ln_f", hidden, scope="final_norm", eps=eps)
    with b.scope("lm_head", "lm_head"):
        x, weight = output_head(step, x, table, hidden, "lm_head", tied=tied)
        bias = weights.take("lm_head.bias", shape.vocab, name="bias")
        lifting.finish(step, b.linear(x, weight, bias, name="logits"))
