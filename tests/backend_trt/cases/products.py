"""Cases of lookups, products, norms and softmax."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.ir.dims import Dim, Shape
from compiler.ir.dtypes import DType
from tests.backend_trt.cases.case_builder import INPUT, LITERAL, SHAPES, WEIGHT, B, Make, Row, S, binary, dims, unary

IDS: tuple[Shape, ...] = ((), (5,), (B, S), (0,), (2, 3, 4), (B, 0))
TABLES = ((151_936, 2), (9, 1), (9, 0), (1, 4), (9, 80))
ROWS: tuple[tuple[Shape, Shape], ...] = (
    ((B, S), (B, 1)), ((B, S, 8), (B, 1)), ((B, S, 8), (B, S)), ((2, 3, 4, 5), (2, 3)), ((2, 3, 2, 2, 2), (2, 1)),
    ((B, 5, 8), (B, 0)), ((1, 1, 8), (1, 1)), ((2, 5, 0), (2, 3)),
)  # fmt: skip
LEFT: tuple[Shape, ...] = (
    (8,), (3, 8), (S, 8), (1, 8), (0, 8), (2, 3, 8), (B, S, 8), (B, 0, 8), (1, 1, 8), (2, 1, 3, 8), (B, 2, S, 8),
    (1, 2, 1, 3, 8),
)  # fmt: skip
WEIGHTS = ((1, 8), (5, 1), (0, 8), (5, 0), (151_936, 2), (80, 20))
PRODUCTS: tuple[tuple[Shape, Shape], ...] = (
    ((3, 4), (4, 5)), ((B, S, 8), (8, 6)), ((8, 8), (B, 8, 6)), ((B, 1, S, 8), (2, 8, 5)), ((1, 1), (1, 1)),
    ((3, 0), (0, 5)), ((0, 4), (4, 5)), ((3, 4), (4, 0)), ((2, 1, 2, 3, 4), (2, 1, 4, 5)), ((B, S, 8), (B, 8, S)),
)  # fmt: skip


def lookups() -> Iterator[Row]:
    """Ops that read at indices: the element type is the table's, then that of the indices."""
    for how in (INPUT, LITERAL, WEIGHT):
        for ids in IDS:
            yield "embedding", f"{how}[9,4] ids {dims(ids)}", _embedding(9, 4, ids, how)
    for rows, width in TABLES:
        yield "embedding", f"weight[{rows},{width}] ids [B,S]", _embedding(rows, width, (B, S), WEIGHT)
    for dtype in DType:
        yield "embedding", f"ids of {dtype}", _embedding(9, 4, (B, S), INPUT, dtype)
        yield "gather_rows", f"rows of {dtype}", _gather_rows((B, 5, 8), (B, 2), dtype)
    for x, chosen in ROWS:
        yield "gather_rows", dims(x, chosen), _gather_rows(x, chosen)


def _embedding(rows: int, width: int, ids: Shape, how: str, dtype: DType = DType.i32) -> Make:
    return lambda d: d.b.embedding(d.x(rows, width, how=how), d.indices(*ids, below=rows, dtype=dtype))


def _gather_rows(x: Shape, rows: Shape, dtype: DType = DType.i32) -> Make:
    length = x[1] if isinstance(x[1], int) else 1
    return lambda d: d.b.gather_rows(d.x(*x), d.indices(*rows, below=length, dtype=dtype))


def products() -> Iterator[Row]:
    """Products."""
    for how in (INPUT, LITERAL, WEIGHT):
        for x in LEFT:
            for bias in (False, True):
                yield "linear", f"{dims(x)} {how}{' bias' * bias}", _linear(x, 5, 8, how, bias)
    for n, k in WEIGHTS:
        lefts: tuple[tuple[Dim, ...], ...] = ((3, k), (B, S, k), (2, 3, k))
        for x in lefts:
            yield "linear", f"{dims(x)} weight[{n},{k}]", _linear(x, n, k, WEIGHT, False)
    for a, b in PRODUCTS:
        turned = (*b[:-2], b[-1], b[-2])
        yield "matmul", dims(a, b), binary("matmul", a, b)
        yield "matmul", f"{dims(a, turned)} transposed", binary("matmul", a, turned, transpose_b=True)
    for how in (LITERAL, WEIGHT):
        yield "matmul", f"[B,S,8] {how}", binary("matmul", (B, S, 8), (8, 6), how)


def _linear(x: Shape, n: int, k: int, how: str, bias: bool) -> Make:
    return lambda d: d.b.linear(d.x(*x), d.x(n, k, how=how), d.x(n, how=how) if bias else None)


def norms() -> Iterator[Row]:
    """Norms and softmax."""
    for shape in filter(None, SHAPES):
        for axis in range(len(shape)):
            yield "softmax", f"{dims(shape)} axis {axis}", unary("softmax", shape, axis=axis)
        for kind, most in (("layer_norm", 2), ("rms_norm", 1)):
            yield kind, dims(shape), _norm(kind, shape, 0)
            for count in range(1, most + 1):
                for how in (LITERAL, WEIGHT, INPUT):
                    yield kind, f"{dims(shape)} {count} {how}", _norm(kind, shape, count, how)
    for width in (1, 80, 151_936):
        yield "softmax", f"[2,{width}]", unary("softmax", (2, width))
        for kind in ("layer_norm", "rms_norm"):
            yield kind, f"[B,{width}]", _norm(kind, (B, width), 1, WEIGHT)


def _norm(kind: str, shape: Shape, count: int, how: str = INPUT) -> Make:
    return lambda d: getattr(d.b, kind)(d.x(*shape), *(d.x(*shape[-1:], how=how) for _ in range(count)))
