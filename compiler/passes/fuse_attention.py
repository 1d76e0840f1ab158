"""Attention as one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.patterns import Match, P, Pattern
from compiler.ir.rewrite import RewriteBuilder
from compiler.ir.rules import Decline, Outcome, apply_rules, rule
from compiler.passes.registry import register


@register("fuse-attention")
@dataclass(frozen=True)
class FuseAttention:
    """Replace the primitives of attention, from the scores to the context, by one `attention` op.

    Recognised: a factor on the scores, an added bias (ALiBi), a mask that hides with minus infinity, and query heads
    that share key heads, folded into the length. Probabilities are then no longer rounded between the ops.
    """

    mode: Annotated[Literal["on", "off"], "off leaves the primitives"] = "on"

    def __call__(self, graph: Graph) -> Graph:
        """The graph with every recognised attention fused."""
        return (
            apply_rules(graph, [same_heads, shared_heads], pass_name="fuse-attention") if self.mode == "on" else graph
        )


def _probs(product: Pattern) -> Pattern:
    """The probabilities over the given product of queries and keys."""
    scaled = P.maybe("scale", product).bind("scaled")
    biased = P.one_of(P.add(scaled, "bias"), scaled)
    return P.softmax(P.where("mask", biased, P.const("hidden")), axis=lambda axis: axis in (-1, 3))


_SCORES = P.matmul("q", "k", transpose_b=True).bind("product")
_FOLDED_SCORES = P.reshape(P.matmul(P.reshape("q").bind("folded"), "k", transpose_b=True)).bind("product")


@rule(P.matmul(_probs(_SCORES), "v", transpose_b=False))
def same_heads(match: Match, b: RewriteBuilder) -> Outcome:
    """As many key heads as query heads."""
    return _fused(match, b)


@rule(P.reshape(P.matmul(P.reshape(_probs(_FOLDED_SCORES)), "v", transpose_b=False)))
def shared_heads(match: Match, b: RewriteBuilder) -> Outcome:
    """Groups of query heads, put one after the other as more queries, share a key head."""
    q, k, folded = match["q"].type, match["k"].type, match["folded"].type
    if q.rank != 4 or k.rank != 4:
        return Decline(f"the queries are {q} and the keys {k}, not [B, heads, positions, D]")
    batch, heads, length, width = q.shape
    kv_heads = k.shape[1]
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or heads % kv_heads:
        return Decline(f"{heads} query heads do not share {kv_heads} key heads evenly")
    if folded.shape != (batch, kv_heads, length * (heads // kv_heads), width):
        return Decline(f"the queries are reshaped to {folded}, which is not a group of heads for each key head")
    if match["product"].type.shape != (batch, heads, length, k.shape[2]):
        return Decline(f"the scores are reshaped to {match['product'].type}, not back to the query heads")
    return _fused(match, b)


def _fused(match: Match, b: RewriteBuilder) -> Outcome:
    q, k, v, mask, bias = match["q"], match["k"], match["v"], match["mask"], match.get("bias")
    if q.type.rank != 4:
        return Decline(f"the queries are {q.type}, not [B, heads, S, D]")
    if q.type.shape[:2] != match.root.result.type.shape[:2]:
        return Decline(f"the result {match.root.result.type} has not the heads of the queries {q.type}")
    if v.type.rank != 4 or k.type.shape[:3] != v.type.shape[:3]:
        return Decline(f"keys {k.type} and values {v.type} differ in more than their width")
    if not _is_minus_infinity(match["hidden"], b):
        return Decline(
            f"%{match['hidden'].name}, which stands where the mask hides, is not a literal of minus infinity"
        )
    scale = match.ops.get("scaled")
    factor = scale.attrs["factor"] if scale and scale.kind.name == "scale" else 1.0
    fused: Value = b.attention(q, k, v, mask, bias, scale=factor)
    return fused


def _is_minus_infinity(value: Value, b: RewriteBuilder) -> bool:
    op = b.producer(value)
    return op is not None and op.kind.name == "literal" and set(op.attrs["values"]) == {float("-inf")}
