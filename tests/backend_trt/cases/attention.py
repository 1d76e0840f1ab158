"""Cases of attention, its caches and its rotary positions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from compiler.ir.dims import Dim, Shape
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from tests.backend_trt.build_checks import SIZES
from tests.backend_trt.cases.case_builder import INPUT, LITERAL, WEIGHT, B, CaseBuilder, Make, Row, S, dims

WIDTHS = (1, 2, 4, 8, 12, 16, 20, 32, 48, 60, 64, 80, 96, 100, 112, 128, 192, 252, 256, 260, 320)
STEPS: tuple[Shape, ...] = ((B, S, 7), (2, 1, 128), (1, 32, 128), (2, 5, 16), (1, 1, 128))
GROUPS = ((1, 1), (4, 1), (4, 2), (6, 3), (14, 2), (71, 1), (5, 5), (0, 1))
MASKS: tuple[Shape, ...] = (
    (), (7,), (S, 7), (S, 1), (1, 7), (1, 1), (B, 1, S, 7), (B, 4, S, 7), (1, 1, 1, 1), (4, 1, 7), (B, 1, 1, 7),
)  # fmt: skip
EXTENTS: tuple[Shape, ...] = (
    (1, 1, 1), (2, 1, 128), (1, 32, 128), (2, 5, 7), (2, 7, 7), (2, 9, 7), (B, 1, 7), (1, S, 7), (B, S, S), (0, 5, 7),
    (2, 0, 7), (2, 5, 0),
)  # fmt: skip
TURNED: tuple[Shape, ...] = (
    (B, 2, S, 8), (2, 1, 1, 8), (1, 2, 5, 8), (0, 2, 3, 8), (2, 0, 3, 8), (2, 2, 0, 8), (2, 4, 3, 0),
)  # fmt: skip


def attention() -> Iterator[Row]:
    """Attention: widths and groups of heads, masks and biases, sizes."""
    for width in WIDTHS:
        for b, s, c in STEPS:
            label = f"D={width} B={b} S={s} C={c}"
            yield "attention", label, attend(b=b, s=s, c=c, width=width)
            yield "attention", f"{label} bias", attend(b=b, s=s, c=c, width=width, bias=(1, 4, 1, c))
        yield "attention", f"D={width} E=8", attend(width=width, out=8)
    for heads, kv in GROUPS:
        yield "attention", f"{heads} heads of {kv}", attend(heads=heads, kv=kv)
    for shape in MASKS:
        yield "attention", f"mask {dims(shape)}", attend(mask=shape)
        yield "attention", f"bias {dims(shape)}", attend(bias=shape)
        yield "attention", f"mask and bias {dims(shape)}", attend(mask=shape, bias=shape)
    for how in (LITERAL, WEIGHT):
        yield "attention", f"bias {how}", attend(bias=(4, 1, 7), how=how)
    for b, s, c in EXTENTS:
        yield "attention", f"B={b} S={s} C={c}", attend(b=b, s=s, c=c)
        yield "attention", f"B={b} S={s} C={c} bias", attend(b=b, s=s, c=c, bias=(b, 1, s, c))
    for scale in (0.125, 0.3):
        for rounded in (False, True):
            yield "attention", f"scale {scale}{' rounded' * rounded}", attend(scale=scale, rounded=rounded)


def attend(
    *, b: Dim = B, s: Dim = S, c: Dim = 7, heads: int = 4, kv: int = 2, width: int = 8, out: int | None = None,
    mask: Shape | None = None, bias: Shape | None = None, how: str = INPUT, scale: float = 1.0, rounded: bool = False,
) -> Make:  # fmt: skip
    """An attention of `c` keys, whose mask shows every query one of them at least."""

    def make(d: CaseBuilder) -> Value:
        q, k = d.x(b, heads, s, width), d.x(b, kv, c, width)
        v = d.x(b, kv, c, width if out is None else out)
        visible = d.x(*((s, c) if mask is None else mask), dtype=DType.bool)
        sizes = visible.type.sizes(SIZES)
        seen = (torch.arange(math.prod(sizes)) % 3 != 1).reshape(sizes)
        if seen.ndim:
            seen[..., :1] = True
        d.values[visible.name] = seen
        extra = None if bias is None else d.x(*bias, how=how)
        return d.b.attention(q, k, v, visible, extra, scale=scale, rounded=rounded)

    return make


def caches() -> Iterator[Row]:
    """Updates of caches: widths, sizes, and where the cache comes from and goes to."""
    for width in WIDTHS:
        yield "kv_update", f"D={width}", _cache(width=width)
    for heads in (0, 1, 2, 5, 71):
        yield "kv_update", f"{heads} heads", _cache(heads=heads)
    for b, s, c in EXTENTS:
        yield "kv_update", f"B={b} S={s} C={c}", _cache(b=b, s=s, c=c)
    for label, use in (("of a computed cache", _computed), ("not an output", _inside), ("twice", _twice)):
        yield "kv_update", label, use


def _cache(*, b: Dim = B, s: Dim = S, c: Dim = 16, heads: int = 2, width: int = 8) -> Make:
    return lambda d: _updated(d, d.b.input("cache", d.dtype, b, heads, c, width), s)


def _updated(d: CaseBuilder, cache: Value, length: Dim) -> Value:
    batch, heads, _, width = cache.type.shape
    new = d.x(batch, heads, length, width)
    at, count = d.indices(batch, below=1), d.indices(batch, below=1)
    d.values[count.name] = torch.full_like(d.values[count.name], new.type.sizes(SIZES)[2])
    return d.b.kv_update(cache, new, at, count)


def _computed(d: CaseBuilder) -> Value:
    return _updated(d, d.b.add(d.x(B, 2, 16, 8), d.x(B, 2, 16, 8)), 2)


def _inside(d: CaseBuilder) -> Value:
    return d.b.relu(_updated(d, d.x(B, 2, 16, 8), 2))


def _twice(d: CaseBuilder) -> Value:
    return _updated(d, _updated(d, d.b.input("cache", d.dtype, B, 2, 16, 8), 2), 2)


def rotary() -> Iterator[Row]:
    """Rotary positions."""
    for width in WIDTHS:
        for half in sorted({0, width // 4, width // 2}):
            for interleaved in (False, True):
                label = f"D={width} half={half}{' interleaved' * interleaved}"
                yield "rotary", label, _turn((B, 2, S, width), half, interleaved)
    for shape in TURNED:
        yield "rotary", dims(shape), _turn(shape, 4 if shape[3] else 0, False)


def _turn(shape: Shape, half: int, interleaved: bool) -> Make:
    angles = (shape[0], shape[2], half)
    return lambda d: d.b.rotary(
        d.x(*shape), d.x(*angles, dtype=DType.f32), d.x(*angles, dtype=DType.f32), interleaved=interleaved
    )
