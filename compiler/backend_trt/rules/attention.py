"""Attention, its caches and its rotary positions."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.backend_trt.emission import Emission, TrtTensor, emits
from compiler.backend_trt.rules.elementwise import scaled
from compiler.backend_trt.rules.shape import reshaped
from compiler.ir.cache_layout import LINEAR
from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from compiler.ir.ops.quant import QUANTIZED


@emits("rotary")
def _rotary(e: Emission, op: Op) -> TrtTensor:
    # x * cos + partner(x) * sin, in the float32 of the angles, over whole heads. TensorRT's own rotary layer is no
    # faster where sizes are fixed, and where they are not it makes the cache update after it rewrite the whole cache.
    x, cos, sin = op.operands
    half, width = cos.type.shape[-1], x.type.shape[-1]
    assert isinstance(half, int)
    assert isinstance(width, int)
    turn = _Turn(half, width, op.attrs["interleaved"])
    wide = e.cast(e[x], DType.f32, "f32")
    partner = e.cast(e.gather(e[x], turn.partners, 3, "partner"), DType.f32, "partner.f32")
    kept = e.elementwise(wide, turn.table(e, cos, [1.0] * 2 * half, 1.0), "PROD", "cos")
    turned = e.elementwise(partner, turn.table(e, sin, turn.signs, 0.0), "PROD", "sin")
    return e.cast(e.elementwise(kept, turned, "SUM", "wide"), x.type.dtype)


@dataclass(frozen=True)
class _Turn:
    """How the dims of a head pair up: the first `2 * half` of `width` turn."""

    half: int
    width: int
    interleaved: bool

    @property
    def pairs(self) -> list[int]:
        """For each dim that turns, the number of its pair."""
        return [i // 2 for i in range(2 * self.half)] if self.interleaved else [*range(self.half)] * 2

    @property
    def partners(self) -> list[int]:
        """For each dim of a head, the other one of its pair; itself if it does not turn."""
        partners = [*range(self.width)]
        turning = 2 * self.half
        partners[:turning] = [i ^ 1 if self.interleaved else (i + self.half) % turning for i in range(turning)]
        return partners

    @property
    def signs(self) -> list[float]:
        """For each dim that turns, the sign of its partner's part."""
        return [-1.0, 1.0] * self.half if self.interleaved else [-1.0] * self.half + [1.0] * self.half

    def table(self, e: Emission, angles: Value, signs: list[float], rest: float) -> TrtTensor:
        """The factors of the dims of a head, `f32[B, 1, S, width]`: signed angles; `rest` for what does not turn."""
        key = ("turn", angles.name, str(self.width), str(self.interleaved), str(rest))
        return e.once(key, lambda: self._table(e, angles, signs, rest))

    def _table(self, e: Emission, angles: Value, signs: list[float], rest: float) -> TrtTensor:
        batch, length, _ = angles.type.shape
        # Dims that do not turn read any angle, times 0, plus what they shall be.
        still = self.width - 2 * self.half
        spread = e.gather(e[angles], [*self.pairs, *[0] * still], 2, "angles")
        column = reshaped(e, spread, (batch, length, self.width), (batch, 1, length, self.width), "head")
        signed = e.elementwise(column, e.vector([*signs, *[0.0] * still], DType.f32, 4), "PROD", "signed")
        if not still:
            return signed
        return e.elementwise(signed, e.vector([*[0.0] * 2 * self.half, *[rest] * still], DType.f32, 4), "SUM", "table")


@emits("kv_update")
def _kv_update(e: Emission, op: Op) -> TrtTensor:
    # The layer writes all S positions of a row, those of its padding too: they lie after the row's tokens, where the
    # mask hides them until later tokens overwrite them. `count` is therefore not needed.
    cache, new, at, _ = op.operands
    if cache.type.dtype in QUANTIZED:
        # The layer takes no 8 bits. The network gives what is new, and reads it and the cache apart: see rules/quant.
        e.updates[op.name] = cache.name
        return e[new]
    return e.layer(e.network.add_kv_cache_update(e[cache], e[new], e[at], e.trt.KVCacheMode.LINEAR))


@emits("attention")
def _attention(e: Emission, op: Op) -> TrtTensor:
    if not _layer_fits(op):
        return _by_steps(e, op)
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


def _layer_fits(op: Op) -> bool:
    """Whether TensorRT's layer takes an attention: values as wide as keys; in 16 bits, a width that it has kernels for.

    Of widths between 8 and 256 these are the multiples of 8, unless there is a bias or one query.
    """
    q, k, v, _, *bias = (value.type for value in op.operands)
    width = k.shape[LINEAR.WIDTH]
    if v.shape[LINEAR.WIDTH] != width or not isinstance(width, int):
        return False
    return q.dtype is DType.f32 or bool(bias) or q.shape[LINEAR.POSITION] == 1 or width % 8 == 0 or not 8 < width < 256


def _by_steps(e: Emission, op: Op) -> TrtTensor:
    """Attention as products and a softmax, all in float32; query heads that share a key head become more queries."""
    q, k, v, mask, *bias = op.operands
    batch, heads, length, width = q.type.shape
    kv_heads, capacity = k.type.shape[LINEAR.HEAD], k.type.shape[LINEAR.POSITION]
    assert isinstance(heads, int)
    assert isinstance(kv_heads, int)
    grouped = (batch, kv_heads, length * (heads // kv_heads))
    wide_q, wide_k, wide_v = (e.cast(e[x], DType.f32, f"{name}.f32") for name, x in (("q", q), ("k", k), ("v", v)))
    kinds = e.trt.MatrixOperation
    queries = reshaped(e, wide_q, q.type.shape, (*grouped, width), "grouped")
    product = e.layer(e.network.add_matrix_multiply(queries, kinds.NONE, wide_k, kinds.TRANSPOSE), "product")
    scores = reshaped(e, product, (*grouped, capacity), (batch, heads, length, capacity), "heads")
    scores = scaled(e, scores, op.attrs["scale"], DType.f32, 4, "scores")
    if bias:
        scores = e.elementwise(scores, e.cast(e.ranked(bias[0], 4), DType.f32, "bias.f32"), "SUM", "biased")
    shown = e.layer(e.network.add_select(e.ranked(mask, 4), scores, e.number(float("-inf"), DType.f32, 4)), "shown")
    softmax = e.network.add_softmax(shown)
    softmax.axes = 1 << 3
    probs = reshaped(e, e.layer(softmax, "probs"), (batch, heads, length, capacity), (*grouped, capacity), "shared")
    context = e.layer(e.network.add_matrix_multiply(probs, kinds.NONE, wide_v, kinds.NONE), "context")
    shaped = reshaped(e, context, (*grouped, v.type.shape[LINEAR.WIDTH]), op.result.type.shape, "wide")
    return e.cast(shaped, q.type.dtype)


def _additive(e: Emission, op: Op, mask: Value, bias: Value) -> TrtTensor:
    """The bias where the mask holds, else minus infinity."""

    def make() -> TrtTensor:
        hidden = e.number(float("-inf"), bias.type.dtype, 4)
        return e.layer(e.network.add_select(e.ranked(mask, 4), e.ranked(bias, 4), hidden), "mask")

    return e.once(("additive", mask.name, bias.name), make)
