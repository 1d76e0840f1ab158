"""Cases of ops that move elements."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.ir.dims import Dim, Shape
from tests.backend_trt.cases.case_builder import (
    LITERAL,
    SHAPES,
    WEIGHT,
    B,
    CaseBuilder,
    Make,
    Row,
    S,
    binary,
    dims,
    unary,
)

RESHAPES: tuple[tuple[Shape, Shape], ...] = (
    ((6,), (2, 3)), ((2, 3), (6,)), ((1,), ()), ((), (1,)), ((), (1, 1)), ((B, S, 8), (B, S, 2, 4)), ((0,), (0, 3)),
    ((0, 3), (3, 0)), ((B, 0, 8), (B, 8, 0)), ((B, S, 8), (B, 1, 4, S, 2)), ((B, S, 8), (1, B, S, 8)),
    ((B, S, 8), (S, B, 8)), ((2, 3, 4), (4, 6)), ((2 * S, 4), (S, 8)), ((B, 4), (1, 2, 1, 2, B, 1, 1, 1)),
    ((B, 4), (1, 2, 1, 2, B, 1, 1, 1, 1)), ((B, 4), (B, 4)), ((B, 0), (0, B)), ((B, 0), (B, 0, 2)),
)  # fmt: skip
BROADCASTS: tuple[tuple[Shape, Shape], ...] = (
    ((B, 1, 8), (B, S, 8)), ((1, 1), (B, S)), ((1,), (0,)), ((1, 3), (0, 3)), ((), (S,)), ((2, 1, 1), (2, 3, 4)),
)  # fmt: skip
PIECES: tuple[tuple[Dim, Dim], ...] = ((S, S), (0, S), (S - 1, 1), (S, 1))
SIZES: tuple[Dim, ...] = (0, 1, 5, 151_936, S, 2 * S, S + 3)


def moving_elements() -> Iterator[Row]:
    """Reshape, transpose, broadcast, iota."""
    for old, new in RESHAPES:
        yield "reshape", f"{dims(old)} to {dims(new)}", unary("reshape", old, shape=new)
    for shape in SHAPES:
        order = tuple(range(len(shape)))
        for perm in sorted({order, order[::-1], order[1:] + order[:1]}):
            yield "transpose", f"{dims(shape)} by {perm}", unary("transpose", shape, perm=perm)
        for new in (shape, (1, *shape), (3, *shape), (B, *shape)):
            yield "broadcast", f"{dims(shape)} to {dims(new)}", unary("broadcast", shape, shape=new)
    for old, new in BROADCASTS:
        yield "broadcast", f"{dims(old)} to {dims(new)}", unary("broadcast", old, shape=new)
    for size in SIZES:
        yield "iota", f"size {size}", _iota(size)


def _iota(size: Dim) -> Make:
    return lambda d: d.b.iota(size=size, dtype=d.dtype)


def slicing_and_joining() -> Iterator[Row]:
    """Slice, split, concat."""
    for shape in SHAPES:
        for axis, dim in enumerate(shape):
            if isinstance(dim, int):
                yield from _cuts(shape, axis, dim)
            yield "concat", f"{dims(shape)} twice axis {axis}", binary("concat", shape, shape, axis=axis)
        yield "concat", f"{dims(shape)} alone axis 0", unary("concat", shape, axis=0)
    for start, size in PIECES:
        label = f"[B,2*S,3] from {start} size {size}"
        yield "slice", label, unary("slice", (B, 2 * S, 3), axis=1, start=start, size=size)
        yield "slice", f"{label}, S shown", _shown(start, size)
    yield "concat", "[B,S,8] [B,S,3]", binary("concat", (B, S, 8), (B, S, 3), axis=-1)
    yield "concat", "[B,S,8] [B,0,8]", binary("concat", (B, S, 8), (B, 0, 8), axis=1)
    for how in (LITERAL, WEIGHT):
        yield "concat", f"[2,8] {how}[3,8]", binary("concat", (2, 8), (3, 8), how, axis=0)


def _cuts(shape: Shape, axis: int, dim: int) -> Iterator[Row]:
    for start, size in sorted({(0, dim), (dim // 2, dim - dim // 2), (0, 0), (dim - 1, 1)}):
        label = f"{dims(shape)} axis {axis} from {start} size {size}"
        yield "slice", label, unary("slice", shape, axis=axis, start=start, size=size)
    sizes = (1, dim - 1) if dim > 1 else (dim,)
    names = tuple(f"piece{i}" for i in range(len(sizes)))
    yield "split", f"{dims(shape)} axis {axis}", unary("split", shape, axis=axis, sizes=sizes, names=names)


def _shown(start: Dim, size: Dim) -> Make:
    def make(d: CaseBuilder) -> object:
        d.b.output("same", d.x(S))
        return d.b.slice(d.x(B, 2 * S, 3), axis=1, start=start, size=size)

    return make
