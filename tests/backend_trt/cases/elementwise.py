"""Cases of elementwise ops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from compiler.ir.dims import Shape
from compiler.ir.dtypes import DType
from tests.backend_trt.cases.case_builder import LITERAL, SHAPES, WEIGHT, B, Make, Row, S, binary, dims, unary

PAIRS: Sequence[tuple[Shape, Shape]] = (
    *((shape, shape) for shape in SHAPES),
    ((B, S, 8), ()), ((), (B, S, 8)), ((B, S, 8), (8,)), ((B, S, 8), (S, 1)), ((B, 1, 8), (1, S, 8)), ((1,), (S,)),
    ((2, 3, 4), (1,)), ((B, 1), (B, 2, S, 8)), ((0,), (1,)), ((3, 0), (1, 1)),
)  # fmt: skip


def _binary(kinds: Sequence[str]) -> Iterator[Row]:
    for kind in kinds:
        for a, b in PAIRS:
            yield kind, dims(a, b), binary(kind, a, b)
        for b in ((), (8,), (1, 8), (1, 1, 8)):
            yield kind, f"[B,S,8] literal{dims(b)}", binary(kind, (B, S, 8), b, LITERAL)
            yield kind, f"[B,S,8] weight{dims(b)}", binary(kind, (B, S, 8), b, WEIGHT)


def _each(kinds: Sequence[str], **attrs: Any) -> Iterator[Row]:
    for kind in kinds:
        for shape in SHAPES:
            yield kind, dims(shape), unary(kind, shape, **attrs)


def elementwise() -> Iterator[Row]:
    """Ops that broadcast, and those of one operand."""
    yield from _binary(("add", "sub", "mul", "div", "less", "less_equal", "logical_and"))
    for a, b in PAIRS:
        yield "where", f"bool{dims(a)} {dims(b)}", _where(a, b)
    yield from _each(("relu", "gelu", "silu", "sigmoid", "tanh", "cos", "sin"))
    for kind, label, make in _each(("gelu",), tanh=True):
        yield kind, f"tanh {label}", make
    for factor in (0.5, 0.3, 1e-6, 1e6):
        for kind, label, make in _each(("scale",), factor=factor):
            yield kind, f"by {factor} {label}", make
    for low, high in ((-0.5, 0.25), (0.0, 2.0), (1.0, 1.0), (-math.inf, 1.0), (-1e9, 1e9)):
        for kind, label, make in _each(("clamp",), min=low, max=high):
            yield kind, f"{low}..{high} {label}", make
    for dtype in DType:
        for shape in ((), (0,), (6,), (B, S, 8)):
            yield "cast", f"to {dtype} {dims(shape)}", unary("cast", shape, dtype=dtype)


def _where(a: Shape, b: Shape) -> Make:
    return lambda d: d.b.where(d.x(*a, dtype=DType.bool), d.x(*b), d.x(*b))
