"""Dimensions: integers and small affine expressions over symbols, such as `S` or `4*S + 1`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from compiler.errors import GraphError


@dataclass(frozen=True, slots=True)
class Affine:
    """`sum(coefficient * symbol) + offset`, with at least one symbol; terms are sorted by symbol, none is zero.

    Made by `symbol` and by arithmetic on other dims; arithmetic whose symbols cancel gives an `int`.
    """

    terms: tuple[tuple[str, int], ...]
    offset: int = 0

    def __add__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            return Affine(self.terms, self.offset + other) if other else self
        coefficients = dict(self.terms)
        for name, coefficient in other.terms:
            coefficients[name] = coefficients.get(name, 0) + coefficient
        return _affine(coefficients, self.offset + other.offset)

    __radd__ = __add__

    def __mul__(self, factor: int) -> Dim:
        return _affine({name: c * factor for name, c in self.terms}, self.offset * factor)

    __rmul__ = __mul__

    def __sub__(self, other: Dim) -> Dim:
        return self + (-1) * other

    def __rsub__(self, other: int) -> Dim:
        return (-1) * self + other

    def __str__(self) -> str:
        text = ""
        for name, c in self.terms:
            sign = "-" if c < 0 else "+" if text else ""
            text += sign + (name if abs(c) == 1 else f"{abs(c)}*{name}")
        return text + (f"{self.offset:+d}" if self.offset else "")

    __repr__ = __str__


Dim = int | Affine
Shape = tuple[Dim, ...]


def _affine(coefficients: Mapping[str, int], offset: int) -> Dim:
    terms = tuple(sorted((name, c) for name, c in coefficients.items() if c))
    return Affine(terms, offset) if terms else offset


def symbol(name: str) -> Affine:
    """The symbolic dimension `name`."""
    return Affine(((name, 1),))


def symbols(dim: Dim) -> tuple[str, ...]:
    """The symbols that `dim` depends on, sorted."""
    return () if isinstance(dim, int) else tuple(name for name, _ in dim.terms)


def evaluate(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The value of `dim` where each symbol has its size; KeyError for a symbol without one."""
    if isinstance(dim, int):
        return dim
    return sum(c * sizes[name] for name, c in dim.terms) + dim.offset


def element_count(shape: Shape) -> int:
    """Number of elements of a shape without symbols; GraphError otherwise."""
    for dim in shape:
        if not isinstance(dim, int):
            raise GraphError(f"shape {shape_text(shape)} has symbols where a fixed shape is needed")
    return math.prod(shape)  # type: ignore[arg-type]


def product_key(shape: Iterable[Dim]) -> tuple[int, tuple[str, ...]]:
    """A canonical form of the product of dims: equal for two shapes exactly when they hold equally many elements.

    Each affine dim is divided by its content, so that `[4*S]` and `[4, S]` agree.
    """
    factor, rest = 1, []
    for dim in shape:
        if isinstance(dim, int):
            factor *= dim
            continue
        content = math.gcd(dim.offset, *(c for _, c in dim.terms))
        factor *= content
        rest.append(str(Affine(tuple((n, c // content) for n, c in dim.terms), dim.offset // content)))
    return factor, tuple(sorted(rest))


def shape_text(shape: Shape) -> str:
    """A shape as the text form spells it, such as `[B,S,256]`."""
    return "[" + ",".join(map(str, shape)) + "]"


_TERM = re.compile(r"([+-]?)\s*(?:(\d+)(?:\s*\*\s*([A-Za-z_]\w*))?|([A-Za-z_]\w*))\s*")


def parse_dim(text: str) -> Dim:
    """Inverse of `str`; ValueError for anything else."""
    if text.isdecimal():
        return int(text)
    text, position = text.strip(), 0
    total: Dim = 0
    while position < len(text):
        match = _TERM.match(text, position)
        if not match or (position and not match[1]):
            raise ValueError(f"{text!r} is no dimension: write an integer or a sum such as 4*S+1")
        sign = -1 if match[1] == "-" else 1
        name = match[3] or match[4]
        size = int(match[2] or 1) * sign
        total = total + (symbol(name) * size if name else size)
        position = match.end()
    if not text:
        raise ValueError("a dimension is empty")
    return total
