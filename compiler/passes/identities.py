"""Rules that drop or join ops without changing a value: what is left computes the same, bit for bit.

The one liberty: where two scales become one, a value between them that over- or underflowed no longer does.
"""

from __future__ import annotations

import math
from itertools import pairwise

from compiler.ir.dtypes import DType
from compiler.ir.matching import Match
from compiler.ir.op import Value
from compiler.ir.patterns import P
from compiler.ir.rewrite import RewriteBuilder
from compiler.ir.rules import Decline, Outcome, rule


@rule(P.one_of(P.reshape("x"), P.broadcast("x"), P.cast("x")))
def same_type(match: Match, b: RewriteBuilder) -> Outcome:
    """Drop a reshape, broadcast or cast to the type that its operand has."""
    return match["x"] if match["x"].type == match.root.result.type else None


@rule(P.reshape(P.reshape("x")))
def reshape_of_reshape(match: Match, b: RewriteBuilder) -> Outcome:
    """Replace a reshape of a reshape by one: only the last shape counts."""
    return b.reshape(match["x"], shape=match.attr("shape"))


@rule(P.broadcast(P.broadcast("x")))
def broadcast_of_broadcast(match: Match, b: RewriteBuilder) -> Outcome:
    """Replace a broadcast of a broadcast by one: only the last shape counts."""
    return b.broadcast(match["x"], shape=match.attr("shape"))


@rule(P.transpose("x", perm=lambda perm: perm == tuple(range(len(perm)))))
def transpose_in_place(match: Match, b: RewriteBuilder) -> Outcome:
    """Drop a transpose that leaves every dimension where it is."""
    return match["x"]


@rule(P.transpose(P.transpose("x").bind("inner")))
def transpose_of_transpose(match: Match, b: RewriteBuilder) -> Outcome:
    """Replace a transpose of a transpose by one, whose permutation is that of both."""
    inner, outer = match.attr("perm", of="inner"), match.attr("perm")
    return b.transpose(match["x"], perm=tuple([inner[i] for i in outer]))


@rule(P.cast(P.cast("x").bind("middle")))
def cast_of_cast(match: Match, b: RewriteBuilder) -> Outcome:
    """Drop the first of two casts if it changes no value."""
    x, middle, last = match["x"].type.dtype, match["middle"].type.dtype, match.root.result.type.dtype
    if not _holds(middle, x):
        return Decline(f"{middle} does not hold every value of {x}")
    if x.is_float and last.is_integer:
        return Decline(f"out of range, {x} to {last} is not defined as {middle} to {last} is")
    return match["x"] if x is last else b.cast(match["x"], dtype=last)


@rule(P.scale("x", factor=1))
def scale_by_one(match: Match, b: RewriteBuilder) -> Outcome:
    """Drop a scaling by 1."""
    return match["x"]


@rule(P.scale(P.scale("x").bind("inner")))
def scale_of_scale(match: Match, b: RewriteBuilder) -> Outcome:
    """Two factors are one if either is a power of two, which rounds nothing."""
    inner, outer = match.attr("factor", of="inner"), match.attr("factor")
    if not _power_of_two(inner) and not _power_of_two(outer):
        return Decline(f"neither {inner} nor {outer} is a power of two, so the product would round differently")
    factor = float(inner) * float(outer)
    if factor == 0 or not math.isfinite(factor):
        return Decline(f"the product of {inner} and {outer} is {factor}")
    return b.scale(match["x"], factor=factor)


def _power_of_two(factor: float) -> bool:
    return math.isfinite(factor) and abs(math.frexp(factor)[0]) == 0.5


@rule(P.slice("x", start=0))
def slice_of_all(match: Match, b: RewriteBuilder) -> Outcome:
    """Drop a slice that takes all of its axis."""
    return match["x"] if match["x"].type == match.root.result.type else None


@rule(P.slice(P.slice("x").bind("inner")))
def slice_of_slice(match: Match, b: RewriteBuilder) -> Outcome:
    """Replace a slice of a slice along the same axis by one."""
    x, axis = match["x"], match.attr("axis")
    if (axis - match.attr("axis", of="inner")) % x.type.rank:
        return None
    start = match.attr("start", of="inner") + match.attr("start")
    return b.slice(x, axis=axis, start=start, size=match.attr("size"))


@rule(P.concat("x"))
def concat_of_one(match: Match, b: RewriteBuilder) -> Outcome:
    """Drop a concat of one operand."""
    return match["x"]


@rule(P.split("x", sizes=lambda sizes: len(sizes) == 1))
def split_into_one(match: Match, b: RewriteBuilder) -> Outcome:
    """Drop a split into one piece, which is the whole."""
    return match["x"]


@rule(P.concat(P.split().bind("split"), P.rest("more")))
def concat_of_split(match: Match, b: RewriteBuilder) -> Outcome:
    """Replace a concat of neighbouring pieces of one value by that value, or by a slice of it."""
    split, parts = match.op("split"), match.root.operands
    x, axis = split.operands[0], match.attr("axis")
    if (axis - match.attr("axis", of="split")) % x.type.rank:
        return None
    return x if parts == split.results else _run(b, split.results, parts, x, axis)


def _run(b: RewriteBuilder, pieces: tuple[Value, ...], parts: tuple[Value, ...], x: Value, axis: int) -> Outcome:
    """A slice of `x`, if the parts are neighbours among its pieces."""
    if any(part not in pieces for part in parts):
        return None
    places = [pieces.index(part) for part in parts]
    if len(parts) < 2 or any(after != before + 1 for before, after in pairwise(places)):
        return None
    sizes = [piece.type.shape[axis] for piece in pieces]
    size = sum(sizes[places[0] : places[-1] + 1])
    return b.slice(x, axis=axis, start=sum(sizes[: places[0]]), size=size)


@rule(P.split(P.concat(P.rest("parts")).bind("concat")))
def split_of_concat(match: Match, b: RewriteBuilder) -> Outcome:
    """Drop a split that cuts a concat where it was joined: the pieces are the operands of the concat."""
    joined, parts = match["concat"], match.rest("parts")
    if [part.type for part in parts] != [piece.type for piece in match.root.results]:
        return None
    return None if (match.attr("axis") - match.attr("axis", of="concat")) % joined.type.rank else parts


IDENTITIES = (
    same_type,
    reshape_of_reshape,
    broadcast_of_broadcast,
    transpose_in_place,
    transpose_of_transpose,
    cast_of_cast,
    scale_by_one,
    scale_of_scale,
    slice_of_all,
    slice_of_slice,
    concat_of_one,
    split_into_one,
    concat_of_split,
    split_of_concat,
)


# Each type with those that hold all of its values, as far as they are of use; the relation is closed below.
_NEXT = {
    DType.bool: (DType.i4, DType.u8),
    DType.i4: (DType.i8, DType.f8e4m3),
    DType.i8: (DType.i32, DType.f16, DType.bf16),
    DType.u8: (DType.i32, DType.f16, DType.bf16),
    DType.i32: (DType.i64, DType.f64),
    DType.f8e4m3: (DType.f16, DType.bf16),
    DType.f16: (DType.f32,),
    DType.bf16: (DType.f32,),
    DType.f32: (DType.f64,),
}


def _above(dtype: DType) -> frozenset[DType]:
    return frozenset({dtype}).union(*(_above(wider) for wider in _NEXT.get(dtype, ())))


_HOLDERS = {dtype: _above(dtype) for dtype in DType}


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether `wide` holds every value of `narrow`."""
    return wide in _HOLDERS[narrow]
