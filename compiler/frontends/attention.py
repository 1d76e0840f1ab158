"""Attention, from primitive ops."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.frontends.step import B, C, S, Step
from compiler.ir.op import Value


@dataclass(frozen=True)
class Attention:
    """How one layer attends.

    Attributes:
        scale: factor on the scores.
        mask: `bool[B,1,S,C]`, true where a query sees a slot.
        bias: `[B,heads,S,C]`, added to the scores, or None.
        softcap: bound on the scores, approached as `softcap * tanh(score / softcap)`, or None.
        angles: cosines and sines of the rotary positions, or None.
        interleaved: which pairs rotate.
    """

    scale: float
    mask: Value
    bias: Value | None = None
    softcap: float | None = None
    angles: tuple[Value, Value] | None = None
    interleaved: bool = False

    def queries(self, step: Step, q: Value) -> Value:
        """`q [B,S,heads*head_dim]` as rotated heads `[B,heads,S,head_dim]`."""
        return self._rotated(step, split_heads(step, q, step.shape.heads, "q"), "q")

    def keys(self, step: Step, k: Value) -> Value:
        """`k [B,S,kv_heads*head_dim]` as rotated heads `[B,kv_heads,S,head_dim]`."""
        return self._rotated(step, split_heads(step, k, step.shape.kv_heads, "k"), "k")

    def values(self, step: Step, v: Value) -> Value:
        """`v [B,S,kv_heads*head_dim]` as heads `[B,kv_heads,S,head_dim]`."""
        return split_heads(step, v, step.shape.kv_heads, "v")

    def __call__(self, step: Step, q: Value, k: Value, v: Value) -> Value:
        """The heads' outputs side by side, `[B,S,heads*head_dim]`.

        `q` is `[B,heads,S,head_dim]`; `k` and `v` are whole caches `[B,kv_heads,C,head_dim]`. Where several query heads
        share a key head, they are put one after the other as more queries, so that no key is repeated.
        """
        b, heads, kv_heads, width = step.b, step.shape.heads, step.shape.kv_heads, step.shape.head_dim
        group = heads // kv_heads
        if group > 1:
            q = b.reshape(q, shape=(B, kv_heads, group * S, width), name="q.grouped")
        scores = b.matmul(q, k, transpose_b=True, name="scores")
        if group > 1:
            scores = b.reshape(scores, shape=(B, heads, S, C), name="scores.heads")
        if self.scale != 1.0:
            scores = b.scale(scores, factor=self.scale, name="scores.scaled")
        if self.softcap is not None:
            scores = b.tanh(b.scale(scores, factor=1 / self.softcap, name="scores.small"), name="scores.tanh")
            scores = b.scale(scores, factor=self.softcap, name="scores.capped")
        if self.bias is not None:
            scores = b.add(scores, self.bias, name="scores.biased")
        scores = b.where(self.mask, scores, step.minus_infinity, name="scores.masked")
        probs = b.softmax(scores, name="probs")
        if group > 1:
            probs = b.reshape(probs, shape=(B, kv_heads, group * S, C), name="probs.grouped")
        context = b.matmul(probs, v, name="context")
        if group > 1:
            context = b.reshape(context, shape=(B, heads, S, width), name="context.heads")
        context = b.transpose(context, perm=(0, 2, 1, 3), name="context.rows")
        merged: Value = b.reshape(context, shape=(B, S, heads * width), name="context.merged")
        return merged

    def cached(self, step: Step, layer: int, q: Value, k: Value, v: Value) -> Value:
        """The heads' outputs for the rows of `q`, `k` and `v`, with the layer's caches updated."""
        queries, keys = self.queries(step, q), self.keys(step, k)
        return self(step, queries, *step.update_cache(layer, keys, self.values(step, v)))

    def _rotated(self, step: Step, x: Value, name: str) -> Value:
        if self.angles is None:
            return x
        rotated: Value = step.b.rotary(x, *self.angles, interleaved=self.interleaved, name=f"{name}.rotary")
        return rotated


def split_heads(step: Step, x: Value, heads: int, name: str) -> Value:
    """`[B,S,heads*head_dim]` as `[B,heads,S,head_dim]`."""
    rows = step.b.reshape(x, shape=(B, S, heads, step.shape.head_dim), name=f"{name}.rows")
    by_head: Value = step.b.transpose(rows, perm=(0, 2, 1, 3), name=f"{name}.heads")
    return by_head
