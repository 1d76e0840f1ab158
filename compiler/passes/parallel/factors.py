"""Sharding factors: the factors of the sizes of axes, shared by all tensors that have them.

An axis of 128 that is reshaped to 4 heads of 32 has two factors: 4, then 32. What stands for the same thing in several
tensors is one factor; to split it is to split all of those tensors, each rank keeping the indices that are its own.
Factors are found by unification: they start as one for each axis of each tensor, and become equal, or
products of finer ones, as ops say what belongs together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compiler.ir.dims import Affine, Dim


@dataclass(eq=False, slots=True)
class Factor:
    """A factor of the size of an axis.

    Attributes:
        size: its size.
        parts: the factors that it is the product of, the slowest first: one if it equals another; none if it is a leaf.
    """

    size: Dim
    parts: tuple[Factor, ...] = ()


def leaves(factors: Iterable[Factor]) -> list[Factor]:
    """The leaves behind some factors, in order; those of size 1 are left out."""
    found: list[Factor] = []
    stack = list(factors)[::-1]
    while (factor := _next_leaf(stack)) is not None:
        found.append(factor)
    return found


def _next_leaf(stack: list[Factor]) -> Factor | None:
    while stack:
        factor = _resolved(stack.pop())
        if factor.parts:
            stack.extend(factor.parts[::-1])
        elif factor.size != 1:
            return factor
    return None


def _resolved(factor: Factor) -> Factor:
    """The last of a chain of equal factors; the chain is shortened for the next time."""
    last = factor
    while len(last.parts) == 1:
        last = last.parts[0]
    while factor is not last:
        factor.parts, factor = (last,), factor.parts[0]
    return last


def unify(left: Sequence[Factor], right: Sequence[Factor]) -> list[Factor]:
    """Make two products of factors the same, factor by factor.

    Returns:
        The factors from the first place on where neither factor divides the other; none if all went well.
    """
    xs, ys = list(left)[::-1], list(right)[::-1]
    while True:
        x, y = _next_leaf(xs), _next_leaf(ys)
        if x is None or y is None:
            return [factor for factor in (x, y) if factor is not None] + leaves(xs[::-1]) + leaves(ys[::-1])
        if x is y:
            continue
        if x.size == y.size:
            x.parts = (y,)
        elif (rest := quotient(x.size, y.size)) is not None:
            x.parts = (y, Factor(rest))
            xs.append(x.parts[1])
        elif (rest := quotient(y.size, x.size)) is not None:
            y.parts = (x, Factor(rest))
            ys.append(y.parts[1])
        else:
            return [x, y, *leaves(xs[::-1]), *leaves(ys[::-1])]


def quotient(whole: Dim, part: Dim) -> Dim | None:
    """`whole / part`, if it is a dim other than 1."""
    if isinstance(whole, int):
        exact = isinstance(part, int) and 0 < part < whole and whole % part == 0
        return whole // part if exact and isinstance(part, int) else None
    coefficients = [c for _, c in whole.terms]
    if isinstance(part, int):
        if part < 2 or any(c % part for c in (*coefficients, whole.offset)):
            return None
        return Affine(tuple([(name, c // part) for name, c in whole.terms]), whole.offset // part)
    ratio = coefficients[0] // (part.terms[0][1] or 1)
    return ratio if ratio > 1 and part * ratio == whole else None
