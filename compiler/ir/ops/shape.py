"""Ops that move elements and compute nothing."""

from compiler.ir.dims import Dim, product_key, shape_text
from compiler.ir.op import op
from compiler.ir.ops.check import axis_of, broadcast_shapes, require, same_dtype
from compiler.ir.types import TensorType


@op
def reshape(x: TensorType, *, shape: tuple[Dim, ...]) -> TensorType:
    """The same elements in row-major order under another shape."""
    require(
        product_key(x.shape) == product_key(shape),
        f"{shape_text(x.shape)} and {shape_text(shape)} hold different numbers of elements",
    )
    return x.with_shape(*shape)


@op
def transpose(x: TensorType, *, perm: tuple[int, ...]) -> TensorType:
    """Dimension `i` of the result is dimension `perm[i]` of `x`."""
    require(sorted(perm) == list(range(x.rank)), f"perm {list(perm)} is no permutation of {x.rank} dimensions")
    return x.with_shape(*(x.shape[i] for i in perm))


@op
def slice_(x: TensorType, *, axis: int, start: Dim, size: Dim) -> TensorType:
    """`size` elements along `axis`, from `start` on."""
    axis = axis_of(axis, x.rank)
    end, whole = start + size, x.shape[axis]
    inside = isinstance(start, int) and isinstance(size, int) and start >= 0 and size >= 0
    require(
        not isinstance(whole, int) or not isinstance(end, int) or (inside and end <= whole),
        f"[{start}, {end}) is outside axis {axis} of size {whole}",
    )
    return x.with_shape(*x.shape[:axis], size, *x.shape[axis + 1 :])


@op
def split(x: TensorType, *, axis: int, sizes: tuple[int, ...]) -> tuple[TensorType, ...]:
    """Consecutive pieces along `axis`, one for each size."""
    axis = axis_of(axis, x.rank)
    require(min(sizes) > 0 and sum(sizes) == x.shape[axis], f"sizes {list(sizes)} do not add up to {x.shape[axis]}")
    return tuple([x.with_shape(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes])


@op
def concat(x: TensorType, *more: TensorType, axis: int) -> TensorType:
    """The operands one after the other along `axis`."""
    axis = axis_of(axis, x.rank)
    same_dtype(x, *more)
    total = x.shape[axis]
    for other in more:
        require(
            other.rank == x.rank
            and all(a == b or i == axis for i, (a, b) in enumerate(zip(x.shape, other.shape, strict=True))),
            f"{x} and {other} differ outside axis {axis}",
        )
        total = total + other.shape[axis]
    return x.with_shape(*x.shape[:axis], total, *x.shape[axis + 1 :])


@op
def broadcast(x: TensorType, *, shape: tuple[Dim, ...]) -> TensorType:
    """`x` repeated to `shape`, by NumPy's broadcasting."""
    require(broadcast_shapes(x.shape, shape) == tuple(shape), f"{x} does not broadcast to {shape_text(shape)}")
    return x.with_shape(*shape)


@op
def embedding(table: TensorType, ids: TensorType) -> TensorType:
    """Row `ids[...]` of `table [V, H]`; the result is `[..., H]`."""
    require(table.rank == 2, f"the table is {table}, not two-dimensional")
    require(ids.dtype.is_integer, f"ids are {ids.dtype}, not integers")
    return table.with_shape(*ids.shape, table.shape[1])


@op
def gather_rows(x: TensorType, rows: TensorType) -> TensorType:
    """`y[b, r] = x[b, rows[b, r]]` for `x [B, S, ...]` and `rows [B, R]`."""
    require(x.rank >= 2 and rows.rank == 2 and x.shape[0] == rows.shape[0], f"{x} and {rows} do not fit")
    require(rows.dtype.is_integer, f"rows are {rows.dtype}, not integers")
    return x.with_shape(*rows.shape, *x.shape[2:])
