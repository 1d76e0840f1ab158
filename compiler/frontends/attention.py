"""Attention, from primitive ops. Every method raises a GraphError for a value of another shape than it says."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.errors import GraphError
from compiler.frontends.step import B, C, S, StepBuilder, expect
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

    def queries(self, step: StepBuilder, q: Value) -> Value:
        """`q [B,S,heads*head_dim]` as rotated heads `[B,heads,S,head_dim]`."""
        return self._rotated(step, split_heads(step, q, step.shape.heads, "q"), "q")

    def keys(self, step: StepBuilder, k: Value) -> Value:
        """`k [B,S,kv_heads*head_dim]` as rotated heads `[B,kv_heads,S,head_dim]`."""
        return self._rotated(step, split_heads(step, k, step.shape.kv_heads, "k"), "k")

    def values(self, step: StepBuilder, v: Value) -> Value:
        """`v [B,S,kv_heads*head_dim]` as heads `[B,kv_heads,S,head_dim]`."""
        return split_heads(step, v, step.shape.kv_heads, "v")

    def __call__(self, step: StepBuilder, q: Value, k: Value, v: Value) -> Value:
        """The heads' outputs side by side, `[B,S,heads*head_dim]`.

        `q` is `[B,heads,S,head_dim]`; `k` and `v` are whole caches `[B,kv_heads,C,head_dim]`. Where several query heads
        share a key head, they are put one after the other as more queries, so that no key is repeated.
        """
        b, heads, kv_heads, width = step.b, step.shape.heads, step.shape.kv_heads, step.shape.head_dim
        expect("queries, split into heads,", q, B, heads, S, width)
        for what, whole in (("the cache of keys", k), ("the cache of values", v)):
            expect(what, whole, B, kv_heads, C, width)
        for what, extra in (("the mask", self.mask), ("the bias of scores", self.bias)):
            if extra is not None:
                _expect_scores(what, extra, heads)
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
        return b.reshape(context, shape=(B, S, heads * width), name="context.merged")

    def cached(self, step: StepBuilder, layer: int, q: Value, k: Value, v: Value) -> Value:
        """The heads' outputs, `[B,S,heads*head_dim]`, with the layer's caches updated.

        `q` is `[B,S,heads*head_dim]`, `k` and `v` are `[B,S,kv_heads*head_dim]`: heads lie side by side.
        """
        queries, keys = self.queries(step, q), self.keys(step, k)
        return self(step, queries, *step.update_cache(layer, keys, self.values(step, v)))

    def _rotated(self, step: StepBuilder, x: Value, name: str) -> Value:
        if self.angles is None:
            return x
        return step.b.rotary(x, *self.angles, interleaved=self.interleaved, name=f"{name}.rotary")


def _expect_scores(what: str, value: Value, heads: int) -> None:
    """GraphError if a value does not go with scores `[B,heads,S,C]`, dim by dim; any of its dims may be 1."""
    shape = value.type.shape
    if len(shape) != 4 or any(dim not in (1, wanted) for dim, wanted in zip(shape, (B, heads, S, C), strict=True)):
        raise GraphError(f"{what} must be [B,{heads},S,C], or 1 in place of some dims; %{value.name} is {value.type}")


def split_heads(step: StepBuilder, x: Value, heads: int, name: str) -> Value:
    """`[B,S,heads*head_dim]` as `[B,heads,S,head_dim]`."""
    words = {"q": "queries", "k": "keys", "v": "values"}
    expect(f"{words.get(name, name)}, before they are split into heads,", x, B, S, heads * step.shape.head_dim)
    rows = step.b.reshape(x, shape=(B, S, heads, step.shape.head_dim), name=f"{name}.rows")
    return step.b.transpose(rows, perm=(0, 2, 1, 3), name=f"{name}.heads")
