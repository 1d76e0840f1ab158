"""MPT: MosaicML's MPT models and Replit-code, with the variants of llm-foundry."""

from __future__ import annotations

from compiler.frontends.attention import Attention
from compiler.frontends.config import Size
from compiler.frontends.derived import turns_by
from compiler.frontends.lifting import Lifting
from compiler.frontends.modules import embed, layer_norm, learned_positions, linear, mlp, output_head, rms_norm
from compiler.frontends.mpt_config import MptConfig, Norm, read_mpt_config
from compiler.frontends.mpt_layers import LayerPlan
from compiler.frontends.registry import frontend
from compiler.frontends.step import B, ModelShape, S, StepBuilder
from compiler.ir.op import Value


@frontend("mpt", "MPTForCausalLM", "MptForCausalLM")
def lift_mpt(lifting: Lifting) -> None:
    """Norm before each half of a layer; positions by ALiBi, rotary or learned embeddings; shared key heads."""
    m = read_mpt_config(lifting.config)
    shape = ModelShape(
        vocab=m.vocab,
        context=m.context,
        layers=len(m.layers),
        hidden=m.hidden,
        heads=m.heads,
        kv_heads=m.kv_heads,
        head_dim=m.head_dim,
        positions=m.positions,
        learned=m.context if m.learned else None,
        cached=[i for i, plan in enumerate(m.layers) if plan.source is None],
    )

    step = lifting.begin(shape)
    b, weights = step.b, step.weights
    base = weights.base("transformer.", "model.transformer.", "", holding="blocks.0.")
    head = base.removesuffix("transformer.") + "lm_head"
    tied = weights.ties(m.tied, f"{base}wte", head)
    weights.derived(r".*\.inv_freq", turns_by(m.rope), f"'attn_config' in {lifting.checkpoint.config_name}")
    attentions = _attentions(step, m)
    states: list[tuple[Value, Value]] = []
    x, table = embed(step, f"{base}wte", m.hidden, tied_to=(head,) if tied else ())
    if m.learned:
        positions = learned_positions(step, f"{base}wpe", m.context, m.hidden)
        with b.scope("embed", f"{base}wpe"):
            x = b.add(x, positions, name="sum")
    for i, plan in enumerate(m.layers):
        module = f"{base}blocks.{i}"
        inner = f"{module}.norm_attn_norm" if m.fused_norms else module
        with b.scope(f"layers.{i}", module):
            normed = _norm(step, x, f"{inner}.norm_1", m.hidden, m.norm, "ln1")
            with b.scope("attn", f"{inner}.attn"):
                attention = attentions[plan.window, plan.rotary]
                q, *kv = _projections(step, normed, f"{inner}.attn", m, plan)
                q = attention.queries(step, q)
                if plan.source is None:
                    k, v = attention.keys(step, kv[0]), attention.values(step, kv[1])
                    states.append(step.update_cache(i, k, v))
                else:
                    states.append(states[plan.source])
                y = attention(step, q, *states[i])
                width = Size(m.heads * m.head_dim, "n_heads * head_dim")
                attended = linear(step, y, f"{inner}.attn.out_proj", m.hidden, width, name="out", bias=m.bias)
            x = b.add(x, attended, name="after_attn")
            normed = _norm(step, x, f"{inner}.norm_2", m.hidden, m.norm, "ln2")
            x = b.add(x, _ffn(step, normed, f"{module}.ffn", m), name="after_mlp")
    x = _norm(step, step.logit_rows(x), f"{base}norm_f", m.hidden, m.norm, "final_norm")
    with b.scope("lm_head", f"{base}wte" if tied else head):
        lifting.finish(step, _logits(step, *output_head(step, x, table, m.hidden, head, tied=tied), m))


def _attentions(step: StepBuilder, m: MptConfig) -> dict[tuple[int | None, bool], Attention]:
    """The attention of each kind of layer: by its window, and by whether it rotates."""
    masks = {window: step.causal_mask(window) for window in dict.fromkeys(plan.window for plan in m.layers)}
    bias = None if m.alibi_bias_max is None else step.alibi(alibi_slopes(m.heads, m.alibi_bias_max))
    angles = step.angles(m.rope) if m.rope else None
    return {
        (plan.window, plan.rotary): Attention(
            m.scale, masks[plan.window], bias, m.softcap, angles if plan.rotary else None
        )
        for plan in m.layers
    }


def _projections(step: StepBuilder, x: Value, module: str, m: MptConfig, plan: LayerPlan) -> list[Value]:
    """The query, and unless they come from another layer the key and value, before they are split into heads."""
    full = Size(m.heads * m.head_dim, "n_heads * head_dim")
    shared = Size(m.kv_heads * m.head_dim, "kv_n_heads * head_dim")
    widths = {"q": full} if plan.source is not None else {"q": full, "k": shared, "v": shared}
    if len(widths) == 3 and m.fused_qkv and not step.weights.has_module(f"{module}.Wq"):
        rows = _fused_linears(step, x, f"{module}.Wqkv", m, widths)
    else:
        rows = [
            linear(step, x, f"{module}.W{name}", width, m.hidden, name=name, bias=m.bias)
            for name, width in widths.items()
        ]
    if m.clip_qkv is not None:
        rows = [
            step.b.clamp(row, min=-m.clip_qkv, max=m.clip_qkv, name=f"{name}.clipped")
            for name, row in zip(widths, rows, strict=True)
        ]
    if m.qk_norm is not None:
        for i, name in enumerate(list(widths)[:2]):
            rows[i] = _qk_norm(step, rows[i], f"{module}.{name}_ln", widths[name], m, name)
    return rows


def _fused_linears(step: StepBuilder, x: Value, module: str, m: MptConfig, widths: dict[str, Size]) -> list[Value]:
    """Linear layers whose weights are stored one below the other."""
    b, weights, sizes = step.b, step.weights, tuple(map(int, widths.values()))
    fused = Size(sum(sizes), "(n_heads + 2 * kv_n_heads) * head_dim")

    def split(value: Value, word: str) -> tuple[Value, ...]:
        pieces: tuple[Value, ...] = b.split(value, axis=0, sizes=sizes, names=tuple(f"{n}.{word}" for n in widths))
        return pieces

    names = tuple(f"{name}.weight" for name in widths)
    parts = [weights.take_parts(f"{module}.weight", fused, m.hidden, name="qkv_weight", split=split, names=names)]
    if m.bias or weights.adds_bias(module):
        parts.append(list(split(weights.take(f"{module}.bias", fused, name="qkv_bias"), "bias")))
    x = weights.input(module, x)
    return [b.linear(x, *pair, name=name) for name, pair in zip(widths, zip(*parts, strict=True), strict=True)]


def _qk_norm(step: StepBuilder, x: Value, module: str, width: int, m: MptConfig, name: str) -> Value:
    """Over all heads together, or over each head alone with weights that the heads share."""
    assert m.qk_norm is not None
    if not m.qk_norm_by_head:
        return _norm(step, x, module, width, m.qk_norm, f"{name}_ln")
    b = step.b
    x = b.reshape(x, shape=(B, S, width // m.head_dim, m.head_dim), name=f"{name}.by_head")
    x = _norm(step, x, module, m.head_dim, m.qk_norm, f"{name}_ln")
    return b.reshape(x, shape=(B, S, int(width)), name=f"{name}.normed")


def _norm(step: StepBuilder, x: Value, module: str, width: int, norm: Norm, scope: str) -> Value:
    if norm.rms:
        return rms_norm(step, x, module, width, scope=scope, eps=norm.eps)
    return layer_norm(step, x, module, width, scope=scope, eps=norm.eps, bias=norm.bias)


def _ffn(step: StepBuilder, x: Value, module: str, m: MptConfig) -> Value:
    if not m.gated:
        return mlp(step, x, module, "up_proj", "down_proj", m.hidden, m.inner, m.act, bias=m.bias)
    b = step.b
    with b.scope("mlp", module):
        gate = m.act(b, linear(step, x, f"{module}.gate_proj", m.inner, m.hidden, name="gate", bias=m.bias))
        gate = step.weights.divided(f"{module}.act", gate, m.inner)
        up = linear(step, x, f"{module}.up_proj", m.inner, m.hidden, name="up", bias=m.bias)
        gated = b.mul(gate, up, name="gated")
        return linear(step, gated, f"{module}.down_proj", m.hidden, m.inner, name="down", bias=m.bias)


def _logits(step: StepBuilder, x: Value, table: Value, m: MptConfig) -> Value:
    b = step.b
    scaled, capped = m.logit_scale is not None, m.logit_softcap is not None
    logits = b.linear(x, table, name="raw" if scaled or capped else "logits")
    if m.logit_scale is not None:
        logits = b.scale(logits, factor=m.logit_scale, name="scaled" if capped else "logits")
    if m.logit_softcap is not None:
        logits = b.tanh(b.scale(logits, factor=1 / m.logit_softcap, name="small"), name="tanh")
        logits = b.scale(logits, factor=m.logit_softcap, name="logits")
    return logits


def alibi_slopes(heads: int, bias_max: float) -> tuple[float, ...]:
    """The slopes of ALiBi (Press et al., 2022), one for each head: a geometric series down to `2 ** -bias_max`.

    Where `heads` is no power of two, the series of the next power is taken, its odd members first.
    """
    power = 1 << (heads - 1).bit_length()
    series = [2.0 ** -(i * bias_max / power) for i in range(1, power + 1)]
    return tuple(series) if power == heads else tuple((series[1::2] + series[::2])[:heads])
