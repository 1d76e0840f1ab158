"""Pieces of quantized weights, made of the integers and scales: what cuts or joins a `dequantize` moves above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import Replacement, RewriteBuilder, sweep

_KINDS = frozenset({"slice", "split", "shard", "concat"})


class _Packed(NamedTuple):
    """A quantized weight: its integers or floats, its scales, its zero points if it has any."""

    q: Value
    parameters: tuple[Value, ...]


def sink_slices(graph: Graph) -> Graph:
    """The graph in which slices, shards and concats of dequantized constants are dequantized slices and so on.

    The weights of merged linears and of one rank then stay quantized where they are stored. What does not fall on the
    bounds of blocks that share a scale stays as it is.
    """
    if not any(True for _ in graph.find("dequantize")):
        return graph

    def visit(op: Op, b: RewriteBuilder) -> Replacement:
        if op.kind.name not in _KINDS or not all(map(b.is_constant, op.operands)):
            return None
        packed = [_packed(value, b) for value in op.operands]
        known = [item for item in packed if item is not None]
        if len(known) != len(packed):
            return None
        if op.kind.name == "concat":
            return _joined(op, known, b)
        axis = op.attrs["axis"] % op.operands[0].type.rank
        if op.kind.name == "shard":
            return _shard(op, known[0], axis, b)
        if op.kind.name == "slice":
            return _piece(op.result, known[0], axis, op.attrs["start"], op.attrs["size"], b)
        pieces: list[Value] = []
        for value, size in zip(op.results, op.attrs["sizes"], strict=True):
            piece = _piece(value, known[0], axis, sum(op.attrs["sizes"][: len(pieces)]), size, b)
            if piece is None:
                return None
            pieces.append(piece)
        return pieces

    return sweep(graph, visit, pass_name="")


def _packed(value: Value, b: RewriteBuilder) -> _Packed | None:
    op = b.producer(value)
    return _Packed(op.operands[0], op.operands[1:]) if op is not None and op.kind.name == "dequantize" else None


def _piece(like: Value, whole: _Packed, axis: int, start: int, size: int, b: RewriteBuilder) -> Value | None:
    total, blocks = whole.q.type.shape[axis], whole.parameters[0].type.shape[axis]
    assert isinstance(total, int) and isinstance(blocks, int)
    block = total // blocks
    first, last = start // block, -(-(start + size) // block)
    if last - first > 1 and (start % block or size % block):
        return None
    parameters = [
        value if blocks == 1 else b.slice(value, axis=axis, start=first, size=last - first, name=f"scale.{i}")
        for i, value in enumerate(whole.parameters)
    ]
    q = b.slice(whole.q, axis=axis, start=start, size=size, name="packed")
    return b.dequantize(q, *parameters, dtype=like.type.dtype)


def _shard(op: Op, whole: _Packed, axis: int, b: RewriteBuilder) -> Value | None:
    blocks = whole.parameters[0].type.shape[axis]
    assert isinstance(blocks, int)
    if blocks > 1 and blocks % op.attrs["parts"]:
        return None
    parameters = [
        value if blocks == 1 else b.emit(op.kind, (value,), op.attrs, (f"scale.{i}",))[0]
        for i, value in enumerate(whole.parameters)
    ]
    (q,) = b.emit(op.kind, (whole.q,), op.attrs, ("packed",))
    return b.dequantize(q, *parameters, dtype=op.result.type.dtype)


def _joined(op: Op, parts: Sequence[_Packed], b: RewriteBuilder) -> Value | None:
    axis = op.attrs["axis"] % op.result.type.rank
    if len({(part.q.type.dtype, *(v.type.dtype for v in part.parameters)) for part in parts}) > 1:
        return None
    if len({_other_dims(part, axis) for part in parts}) > 1:
        return None
    columns = list(zip(*(_spread(part, axis, parts, b) for part in parts), strict=True))
    parameters = [b.concat(*column, axis=axis, name=f"scale.{i}") for i, column in enumerate(columns)]
    q = b.concat(*(part.q for part in parts), axis=axis, name="packed")
    return b.dequantize(q, *parameters, dtype=op.result.type.dtype)


def _other_dims(part: _Packed, axis: int) -> tuple[object, ...]:
    shape = part.parameters[0].type.shape
    return (*shape[:axis], *shape[axis + 1 :])


def _spread(part: _Packed, axis: int, parts: Sequence[_Packed], b: RewriteBuilder) -> tuple[Value, ...]:
    """The scales of a part, one for each element of the axis if the parts have blocks of different sizes."""
    sizes = {_block(other, axis) for other in parts}
    if len(sizes) == 1:
        return part.parameters
    return tuple([_repeated(value, _block(part, axis), axis, b) for value in part.parameters])


def _block(part: _Packed, axis: int) -> int:
    total, blocks = part.q.type.shape[axis], part.parameters[0].type.shape[axis]
    assert isinstance(total, int) and isinstance(blocks, int)
    return total // blocks


def _repeated(value: Value, count: int, axis: int, b: RewriteBuilder) -> Value:
    shape = value.type.sizes({})
    before, blocks, after = shape[:axis], shape[axis], shape[axis + 1 :]
    column = b.reshape(value, shape=(*before, blocks, 1, *after), name="blocks")
    repeated = b.broadcast(column, shape=(*before, blocks, count, *after), name="spread")
    return b.reshape(repeated, shape=(*before, blocks * count, *after), name="scales")
