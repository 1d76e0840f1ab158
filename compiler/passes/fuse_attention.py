"""The pass `fuse-attention`: it puts one `attention` op in place of the primitives that frontends write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from compiler.errors import PassError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.graph import Graph
from compiler.ir.matching import Match, Miss
from compiler.ir.op import Value
from compiler.ir.patterns import P, Pattern
from compiler.ir.rewrite import RewriteBuilder
from compiler.ir.rules import Decline, Outcome, Rule, apply_rules
from compiler.passes.registry import register

Mode = Literal["fp32", "fp16", "on", "off"]


@register("fuse-attention")
@dataclass(frozen=True)
class FuseAttention:
    """Replace the primitives of attention, from the scores to the context, by one `attention` op.

    Recognised: a factor on the scores, an added bias (ALiBi), a mask that hides with minus infinity, and query heads
    that share key heads, folded into the length. What is done to queries, keys and values before (rotation, clipping,
    norms, scaling) does not matter. What else multiplies a softmax with something is declined, with the reason.

    With `fp32` scores and probabilities stay in float32 until the context is rounded, once. With `fp16` they are
    rounded between the steps to the 16 bits of the queries (float16 or bfloat16), as the primitives do.
    """

    mode: Annotated[
        Mode, "fp32: scores stay in float32; fp16: they are rounded to 16 bits; on: fp32; off: leave the primitives"
    ] = "fp32"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise PassError(
                f"fuse-attention has no mode {self.mode!r}", hint=f"its modes are {', '.join(get_args(Mode))}"
            )
        if self.mode == "on":
            object.__setattr__(self, "mode", "fp32")

    def __call__(self, graph: Graph) -> Graph:
        """The graph with every recognised attention fused."""
        if self.mode == "off":
            return graph
        fusion = _Fusion(graph, rounded=self.mode == "fp16")
        rules = [Rule("same_heads", _SAME_HEADS, fusion.same_heads)]
        rules += [Rule("shared_heads", _SHARED_HEADS, fusion.shared_heads)]
        return apply_rules(graph, rules, pass_name="fuse-attention")


# What is taken for attention: a softmax times something. What its scores must look like comes after, so that every
# attention of another form is declined by name.
_PROBS = P.softmax("scores").bind("probs")
_SAME_HEADS = P.matmul(_PROBS, "v", transpose_b=False)
_SHARED_HEADS = P.reshape(P.matmul(P.reshape(_PROBS).bind("grouped"), "v", transpose_b=False))


def _scores(product: Pattern) -> Pattern:
    """Scores over the given product of queries and keys."""
    scaled = P.one_of(product, P.scale(product).bind("scale"))
    biased = P.one_of(scaled, P.add(scaled, "bias"))
    return P.where("mask", biased, P.const("hidden"))


_SAME_SCORES = _scores(P.matmul("q", "k", transpose_b=True))
_SHARED_SCORES = _scores(P.reshape(P.matmul(P.reshape("q").bind("folded"), "k", transpose_b=True)))


@dataclass(frozen=True)
class _Fusion:
    """The rules of the pass, bound to the graph that they rewrite and to the pass's option `rounded`."""

    graph: Graph
    rounded: bool

    def same_heads(self, match: Match, b: RewriteBuilder) -> Outcome:
        """Fuse attention that has as many key heads as query heads."""
        return self._fused(match, _SAME_SCORES, b)

    def shared_heads(self, match: Match, b: RewriteBuilder) -> Outcome:
        """Fuse attention whose groups of query heads, put one after the other as more queries, share a key head."""
        return self._fused(match, _SHARED_SCORES, b)

    def _fused(self, outer: Match, scores: Pattern, b: RewriteBuilder) -> Outcome:
        producer = b.producer(outer["scores"])
        if producer is None:
            return Decline(f"the scores %{outer['scores'].name} are an input")
        inner = scores.match(producer, b)
        if isinstance(inner, Miss):
            return Decline(f"the scores are not a product behind a mask: {inner.reason}")
        reason = (
            _other_shapes(outer, inner)
            or _other_groups(outer, inner)
            or _other_hidden(inner["hidden"], b)
            or self._other_reader(outer, inner)
        )
        if reason:
            return Decline(reason)
        factor = inner.attr("factor", of="scale") if "scale" in inner.ops else 1.0
        operands = (inner["q"], inner["k"], outer["v"], inner["mask"], inner.get("bias"))
        return b.attention(*operands, scale=factor, rounded=self.rounded)

    def _other_reader(self, outer: Match, inner: Match) -> str:
        """Who else reads what lies between the queries and the context, and would be computed twice."""
        inside = [op for op in (*outer.matched[1:], *inner.matched) if op is not inner.ops.get("folded")]
        own = {outer.root.name, *(op.name for op in inside)}
        for op in inside:
            for user in self.graph.users.get(op.name, ()):
                if user.name not in own:
                    return f"%{op.name} is read by {user.kind.name} %{user.name} too"
            if op.result in self.graph.outputs.values():
                return f"%{op.name} is an output of the graph"
        return ""


def _other_shapes(outer: Match, inner: Match) -> str:
    q, k, v, scores = (value.type for value in (inner["q"], inner["k"], outer["v"], outer["scores"]))
    if q.rank != LINEAR.RANK or k.rank != LINEAR.RANK:
        return f"the queries are {q} and the keys {k}, not [B, heads, positions, D]"
    batch, heads, length, _ = q.shape
    if k.shape[LINEAR.ROW] != batch or v.rank != LINEAR.RANK or k.shape[: LINEAR.WIDTH] != v.shape[: LINEAR.WIDTH]:
        return f"queries {q}, keys {k} and values {v} differ in more than heads, length and width"
    kv_heads = k.shape[LINEAR.HEAD]
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or heads % kv_heads:
        return f"{heads} query heads do not share {kv_heads} key heads evenly"
    if scores.shape != (batch, heads, length, k.shape[LINEAR.POSITION]):
        return f"the scores are {scores}, not a row for each of the queries {q} with a column for each key"
    axis = outer.attr("axis", of="probs")
    if axis not in (-1, 3):
        return f"the softmax %{outer['probs'].name} is over axis {axis}, not over the keys"
    return ""


def _other_groups(outer: Match, inner: Match) -> str:
    """What is wrong with the reshapes, where heads are shared."""
    if "folded" not in inner.values:
        return ""
    q, k, v, folded = (value.type for value in (inner["q"], inner["k"], outer["v"], inner["folded"]))
    batch, heads, length, width = q.shape
    kv_heads = k.shape[LINEAR.HEAD]
    assert isinstance(heads, int) and isinstance(kv_heads, int)
    rows = (batch, kv_heads, length * (heads // kv_heads))
    if folded.shape != (*rows, width):
        return f"the queries are reshaped to {folded}, which is not a group of heads for each key head"
    if outer["grouped"].type.shape != (*rows, k.shape[LINEAR.POSITION]):
        return f"the probabilities are reshaped to {outer['grouped'].type}, not as the queries are"
    if outer.root.result.type.shape != (batch, heads, length, v.shape[LINEAR.WIDTH]):
        return f"the context is reshaped to {outer.root.result.type}, not back to the query heads"
    return ""


def _other_hidden(hidden: Value, b: RewriteBuilder) -> str:
    op = b.producer(hidden)
    if op is None or op.kind.name != "literal" or set(op.attrs["values"]) != {float("-inf")}:
        return f"%{hidden.name}, which stands where the mask hides, is not a literal of minus infinity"
    return ""
