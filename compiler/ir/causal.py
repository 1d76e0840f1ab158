"""What the positions, masks and biases of causal attention look like in a step graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from compiler.ir.dims import Dim
from compiler.ir.op import Op
from compiler.ir.patterns import P, Pattern


@dataclass(frozen=True)
class CausalPatterns:
    """The patterns for steps of some size.

    Attributes:
        positions: the positions of a row's tokens, from its `past` on.
        mask: what lets a token at `positions` see itself and those before, or the last of them in a constant `window`.
        bias: of ALiBi: the constant `slopes` of the heads times how far what is seen is from `positions`.
    """

    positions: Pattern
    mask: Pattern
    bias: Pattern


@cache
def causal_patterns(length: Dim, capacity: Dim) -> CausalPatterns:
    """The patterns where a row has `length` tokens, and the caches have `capacity`."""
    slots = P.iota(size=capacity)
    queries = P.reshape("positions")
    causal = P.less_equal(slots, queries)
    near = P.less_equal(P.sub(queries, P.const("window")), slots)
    distance = P.cast(P.sub(slots, queries))
    return CausalPatterns(
        P.add(P.reshape("past"), P.iota(size=length)),
        P.one_of(causal, P.logical_and(causal, near)),
        P.maybe("cast", P.mul("slopes", distance)),
    )


def window_of(width: Op | None) -> int | None:
    """The window that the op behind it gives; None if it is no literal of one number."""
    if width is None or width.kind.name != "literal" or len({*width.attrs["values"]}) != 1:
        return None
    return int(width.attrs["values"][0])
