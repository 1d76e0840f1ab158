"""Attention, its caches and its rotary positions: TensorRT's own layers."""

from __future__ import annotations

from compiler.backend_trt.emission import Emission, TrtTensor, emits
from compiler.backend_trt.rules.elementwise import scaled
from compiler.ir.op import Op, Value


@emits("rotary")
def _rotary(e: Emission, op: Op) -> TrtTensor:
    x, cos, sin = op.operands
    dtype = x.type.dtype
    # The layer wants one element type. The angles are float32, so the rotation is, and it is rounded once.
    wide = e.cast(e[x], cos.type.dtype, "f32")
    half, width = cos.type.shape[-1], x.type.shape[-1]
    assert isinstance(half, int)
    layer = e.network.add_rotary_embedding(
        wide, e[cos], e[sin], op.attrs["interleaved"], 0 if 2 * half == width else 2 * half
    )
    if dtype is cos.type.dtype:
        return e.layer(layer)
    return e.cast(e.layer(layer, "turned"), dtype)


@emits("kv_update")
def _kv_update(e: Emission, op: Op) -> TrtTensor:
    # The layer writes all S positions of a row, those of its padding too: they lie after the row's tokens, where the
    # mask hides them until later tokens overwrite them. `count` is therefore not needed.
    cache, new, at, _ = op.operands
    return e.layer(e.network.add_kv_cache_update(e[cache], e[new], e[at], e.trt.KVCacheMode.LINEAR))


@emits("attention")
def _attention(e: Emission, op: Op) -> TrtTensor:
    q, k, v, mask, *bias = op.operands
    dtype = q.type.dtype
    queries = e[q] if op.attrs["scale"] == 1.0 else scaled(e, e[q], op.attrs["scale"], dtype, 4, "scaled")
    attention = e.network.add_attention_v2(
        queries, e[k], e[v], e.trt.AttentionNormalizationOp.SOFTMAX, e.trt.CausalMaskKind.NONE
    )
    if attention is None:
        return e.layer(None)
    attention.decomposable = True
    attention.mask = _additive(e, op, mask, bias[0]) if bias else e.ranked(mask, 4)
    return e.attention(attention)


def _additive(e: Emission, op: Op, mask: Value, bias: Value) -> TrtTensor:
    """The bias where the mask holds, else minus infinity."""

    def make() -> TrtTensor:
        hidden = e.number(float("-inf"), bias.type.dtype, 4)
        return e.layer(e.network.add_select(e.ranked(mask, 4), e.ranked(bias, 4), hidden), "mask")

    return e.once(("additive", mask.name, bias.name), make)
