"""A family of models whose layers have a gate."""

from llmc import families
from llmc.families import Attention, Lifting, ModelShape, divide, embed, layer_norm, linear, projected_attention


@families.register("gated", "GatedForCausalLM")
def lift_gated(lifting: Lifting) -> None:
    """Pre-norm layers with ALiBi whose feed-forward part is `down(soft_gate(up(x)))`."""
    config = lifting.config
    hidden, heads = config.size("hidden"), config.size("heads")
    shape = ModelShape(
        vocab=config.size("vocab_size"),
        context=config.size("context"),
        layers=config.size("layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=divide(config, "hidden", hidden, "heads", heads),
        positions="alibi",
    )
    step = lifting.begin(shape)
    b = step.b
    slopes = [2.0 ** -(i + 1) for i in range(heads)]
    attention = Attention(scale=shape.head_dim**-0.5, mask=step.causal_mask(), bias=step.alibi(slopes))
    x, table = embed(step, "embed", hidden)
    for i in range(shape.layers):
        module = f"layers.{i}"
        with b.scope(module, module):
            normed = layer_norm(step, x, f"{module}.ln", hidden, scope="ln", eps=1e-5)
            x = b.add(x, projected_attention(step, normed, f"{module}.attn", i, attention, bias=False))
            with b.scope("mlp", f"{module}.mlp"):
                wide = linear(step, x, f"{module}.mlp.up", 4 * hidden, hidden, name="up", bias=False)
                gated = b.soft_gate(wide, name="act")
                x = b.add(x, linear(step, gated, f"{module}.mlp.down", hidden, 4 * hidden, name="down", bias=False))
    x = layer_norm(step, step.logit_rows(x), "ln_f", hidden, scope="final_norm", eps=1e-5)
    with b.scope("lm_head", "embed"):
        lifting.finish(step, b.linear(x, table, name="logits"))
