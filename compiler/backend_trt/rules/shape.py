"""Ops that move elements."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.backend_trt.emission import Emission, TrtTensor, emits
from compiler.ir.dims import Dim, Shape
from compiler.ir.op import Op


@emits("reshape")
def _reshape(e: Emission, op: Op) -> TrtTensor:
    return reshaped(e, e[op.operands[0]], op.operands[0].type.shape, op.attrs["shape"])


def reshaped(e: Emission, x: TrtTensor, old: Shape, new: Shape, detail: str = "") -> TrtTensor:
    """`x` under another shape. Dims that stay in place are copied, and one more may be inferred."""
    layer = e.network.add_shuffle(x)
    dims = [_placeholder(i, dim, old) for i, dim in enumerate(new)]
    if None not in dims and dims.count(-1) <= 1:
        layer.zero_is_placeholder = True
        layer.reshape_dims = tuple(dims)
    elif dims.count(None) == 1 and -1 not in dims:
        layer.zero_is_placeholder = True
        layer.reshape_dims = tuple(-1 if dim is None else dim for dim in dims)
    else:
        layer.zero_is_placeholder = False
        layer.set_input(1, e.shape(new))
    return e.layer(layer, detail)


def _placeholder(axis: int, dim: Dim, old: Shape) -> int | None:
    if isinstance(dim, int):
        return dim or None
    return 0 if axis < len(old) and old[axis] == dim else None


@emits("transpose")
def _transpose(e: Emission, op: Op) -> TrtTensor:
    layer = e.network.add_shuffle(e[op.operands[0]])
    layer.first_transpose = op.attrs["perm"]
    return e.layer(layer)


@emits("slice")
def _slice(e: Emission, op: Op) -> TrtTensor:
    x = op.operands[0]
    axis = op.attrs["axis"] % x.type.rank
    return sliced(e, e[x], axis, op.attrs["start"], op.result.type.shape)


@emits("split")
def _split(e: Emission, op: Op) -> tuple[TrtTensor, ...]:
    x, start, pieces = op.operands[0], 0, []
    axis = op.attrs["axis"] % x.type.rank
    for number, (result, size) in enumerate(zip(op.results, op.attrs["sizes"], strict=True)):
        detail = str(number)
        piece = sliced(e, e[x], axis, start, result.type.shape, detail)
        pieces.append(piece)
        start += size
    return tuple(pieces)


def sliced(e: Emission, x: TrtTensor, axis: int, start: Dim, shape: Shape, detail: str = "") -> TrtTensor:
    """The part of `x` that begins at `start` along `axis` and has `shape`."""
    rank = len(shape)
    starts: list[Dim] = [0] * rank
    starts[axis] = start
    return _strided(e, x, starts, shape, [1] * rank, detail)


def _strided(
    e: Emission, x: TrtTensor, start: Sequence[Dim], shape: Shape, stride: Sequence[int], detail: str = ""
) -> TrtTensor:
    fixed = [tuple(dim if isinstance(dim, int) else 0 for dim in dims) for dims in (start, shape)]
    layer = e.network.add_slice(x, *fixed, tuple(stride))
    for number, dims in enumerate((start, shape), 1):
        if not all(isinstance(dim, int) for dim in dims):
            layer.set_input(number, e.shape(tuple(dims)))
    return e.layer(layer, detail)


@emits("concat")
def _concat(e: Emission, op: Op) -> TrtTensor:
    layer = e.network.add_concatenation([e[value] for value in op.operands])
    layer.axis = op.attrs["axis"] % op.result.type.rank
    return e.layer(layer)


@emits("broadcast")
def _broadcast(e: Emission, op: Op) -> TrtTensor:
    x, shape = op.operands[0], op.attrs["shape"]
    rank = len(shape)
    given = (1,) * (rank - x.type.rank) + x.type.shape
    stride = [1 if old == new else 0 for old, new in zip(given, shape, strict=True)]
    return _strided(e, e.ranked(x, rank), [0] * rank, shape, stride)


@emits("embedding")
def _embedding(e: Emission, op: Op) -> TrtTensor:
    table, ids = op.operands
    return e.layer(e.network.add_gather(e[table], e[ids], 0))


@emits("gather_rows")
def _gather_rows(e: Emission, op: Op) -> TrtTensor:
    x, rows = op.operands
    layer = e.network.add_gather(e[x], e[rows], 1)
    layer.num_elementwise_dims = 1
    return e.layer(layer)


@emits("iota")
def _iota(e: Emission, op: Op) -> TrtTensor:
    size, dtype = op.attrs["size"], op.attrs["dtype"]
    if isinstance(size, int):
        fill = e.network.add_fill((size,), e.trt.FillOperation.LINSPACE, e.data_type(dtype))
    else:
        fill = e.network.add_fill((1,), e.trt.FillOperation.LINSPACE, e.data_type(dtype))
        fill.set_input(0, e.shape((size,)))
    fill.set_input(1, e.number(0, dtype, 0))
    fill.set_input(2, e.number(1, dtype, 1))
    return e.layer(fill)
