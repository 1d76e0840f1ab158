"""GPT-2, and others whose `model_type` is `gpt2`: DistilGPT-2, DialoGPT, Cerebras-GPT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.errors import CheckpointError
from compiler.frontends import frontend
from compiler.frontends.activations import ACTIVATIONS, Activation
from compiler.frontends.attention import Attention
from compiler.frontends.config import Size
from compiler.frontends.derived import is_causal
from compiler.frontends.lifting import Lifting, divide
from compiler.frontends.modules import embed, layer_norm, learned_positions, output_head
from compiler.frontends.step import ModelShape, StepBuilder
from compiler.ir.op import Value


@frontend("gpt2", "GPT2LMHeadModel", special_tokens={"bos": 50256, "eos": 50256})
def lift_gpt2(lifting: Lifting) -> None:
    """LayerNorm before each half of a layer, learned positions, and weights that are stored as `[inputs, outputs]`."""
    config = lifting.config
    hidden = config.size("n_embd", aliases=("hidden_size",))
    heads = config.size("n_head", aliases=("num_attention_heads",))
    inner = config.size("n_inner", default=Size(4 * hidden, "4 * n_embd"))
    eps = config.take("layer_norm_epsilon", float, default=1e-5)
    act = config.choice("activation_function", ACTIVATIONS, default="gelu_new")
    scaled = config.take("scale_attn_weights", bool, default=True)
    by_layer = config.take("scale_attn_by_inverse_layer_idx", bool, default=False)
    tied = config.take("tie_word_embeddings", bool, default=True)
    context = config.size("n_positions", aliases=("max_position_embeddings",), default=1024)
    head_dim = divide(config, "n_embd", hidden, "n_head", heads)
    config.only("pruned_heads", {})
    # The order in which scores are scaled: it matters to their rounding in 16 bits, not to what they are.
    config.ignore("reorder_and_upcast_attn", "n_ctx", "resid_pdrop", "embd_pdrop", "attn_pdrop")
    config.ignore(
        "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"
    )
    shape = ModelShape(
        vocab=config.size("vocab_size"),
        context=context,
        layers=config.size("n_layer", aliases=("num_hidden_layers",)),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        positions="learned",
        learned=context,
    )

    step = lifting.begin(shape)
    b, weights = step.b, step.weights
    if weights.scheme is not None:
        raise CheckpointError(
            "quantized checkpoints of GPT-2 are not supported: tools store its weights in different orders",
            hint="compile the unquantized checkpoint, and let llmc quantize it (--passes quant=...)",
        )
    base = weights.base("transformer.", "", holding="h.0.")
    tied = weights.ties(tied, f"{base}wte", "lm_head")
    weights.derived(r".*\.attn\.(bias|masked_bias)", is_causal, "the causal mask of this family")
    attention = Attention(scale=head_dim**-0.5 if scaled else 1.0, mask=step.causal_mask())
    x, table = embed(step, f"{base}wte", hidden, tied_to=("lm_head",) if tied else ())
    positions = learned_positions(step, f"{base}wpe", context, hidden)
    with b.scope("embed", base.rstrip(".")):
        x = b.add(x, positions, name="sum")
    for i in range(shape.layers):
        module = f"{base}h.{i}"
        here = replace(attention, scale=attention.scale / (i + 1)) if by_layer else attention
        with b.scope(f"layers.{i}", module):
            normed = layer_norm(step, x, f"{module}.ln_1", hidden, scope="ln1", eps=eps)
            x = b.add(x, _attention(step, normed, f"{module}.attn", i, here), name="after_attn")
            normed = layer_norm(step, x, f"{module}.ln_2", hidden, scope="ln2", eps=eps)
            x = b.add(x, _mlp(step, normed, f"{module}.mlp", inner, act), name="after_mlp")
    x = layer_norm(step, step.logit_rows(x), f"{base}ln_f", hidden, scope="final_norm", eps=eps)
    with b.scope("lm_head", f"{base}wte" if tied else "lm_head"):
        lifting.finish(step, b.linear(*output_head(step, x, table, hidden, "lm_head", tied=tied), name="logits"))


def _attention(step: StepBuilder, x: Value, module: str, layer: int, attention: Attention) -> Value:
    """One weight holds queries, keys and values side by side."""
    hidden = step.shape.hidden
    with step.b.scope("attn", module):
        q, k, v = _conv1d(step, x, f"{module}.c_attn", (hidden,) * 3, hidden, names=("q", "k", "v"))
        y = attention.cached(step, layer, q, k, v)
        (out,) = _conv1d(step, y, f"{module}.c_proj", (hidden,), hidden, names=("out",))
        return out


def _mlp(step: StepBuilder, x: Value, module: str, inner: Size, act: Activation) -> Value:
    hidden = step.shape.hidden
    with step.b.scope("mlp", module):
        (up,) = _conv1d(step, x, f"{module}.c_fc", (inner,), hidden, names=("up",))
        (down,) = _conv1d(step, act(step.b, up), f"{module}.c_proj", (hidden,), inner, names=("down",))
        return down


def _conv1d(
    step: StepBuilder, x: Value, module: str, outputs: Sequence[Size], width: int, *, names: Sequence[str]
) -> list[Value]:
    """Linears whose weights lie side by side in one `[width, sum(outputs)]`: what GPT-2 calls a Conv1D.

    The weight is turned by an op, so that passes find what they know, `[outputs, width]`. It costs nothing: what is
    computed from constants is computed once, when the engine is written.
    """
    b, weights = step.b, step.weights
    together, total = "".join(names), Size(sum(outputs), " + ".join(size.origin for size in outputs))
    stored = weights.take(f"{module}.weight", width, total, name=f"{together}.stored")
    bias = weights.take(f"{module}.bias", total, name=f"{together}.bias")
    if len(names) == 1:
        return [b.linear(x, b.transpose(stored, perm=(1, 0), name=f"{together}.weight"), bias, name=together)]
    turned = b.transpose(stored, perm=(1, 0), name=f"{together}.turned")
    sizes = tuple(map(int, outputs))
    parts = b.split(turned, axis=0, sizes=sizes, names=tuple(f"{name}.weight" for name in names))
    offsets = b.split(bias, axis=0, sizes=sizes, names=tuple(f"{name}.bias" for name in names))
    return [b.linear(x, *pair, name=name) for name, *pair in zip(names, parts, offsets, strict=True)]
