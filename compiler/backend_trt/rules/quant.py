"""Quantized activations and caches, but for what linears multiply in 8 bits (`compiler.backend_trt.rounded`).

TensorRT's own layers take scales that are constants. By a scale that a run computes, such as one per token, the values
are divided in float32 before they are rounded by a scale of 1.
"""

from __future__ import annotations

import torch

from compiler.backend_trt.emission import Emission, TrtTensor, emits
from compiler.backend_trt.rules.shape import reshaped
from compiler.ir.cache_layout import LINEAR
from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value


@emits("amax")
def _amax(e: Emission, op: Op) -> TrtTensor:
    x = op.operands[0]
    size = e.layer(e.network.add_unary(e[x], e.trt.UnaryOperation.ABS), "abs")
    axes = 1 << (op.attrs["axis"] % x.type.rank)
    return e.layer(e.network.add_reduce(size, e.trt.ReduceOperation.MAX, axes, True))


@emits("quantize")
def _quantize(e: Emission, op: Op) -> TrtTensor:
    x, scale = op.operands
    given = e.data_type(op.attrs["dtype"])
    if scale.name in e.stored:
        scales, axis = _constant_scale(e, scale)
        return _with_axis(e, e.network.add_quantize(e[x], scales, given), axis)
    wide = e.cast(e[x], DType.f32, "f32")
    inverse = e.elementwise(e.number(1.0, DType.f32, x.type.rank), e[scale], "DIV", "inverse")
    ratio = e.elementwise(wide, inverse, "PROD", "ratio")
    return e.layer(e.network.add_quantize(ratio, e.one(), given))


@emits("dequantize")
def _dequantize(e: Emission, op: Op) -> TrtTensor:
    q, scale = op.operands
    update = e.graph.producers.get(q.name)
    if update is not None and update.kind.name == "kv_update":
        return _cache_after(e, op, update)
    if scale.name in e.stored:
        scales, axis = _constant_scale(e, scale)
        return _with_axis(e, e.network.add_dequantize(e[q], scales, e.data_type(op.attrs["dtype"])), axis)
    codes = e.layer(e.network.add_dequantize(e[q], e.one(), e.data_type(DType.f32)), "codes")
    return e.cast(e.elementwise(codes, e[scale], "PROD", "scaled"), op.attrs["dtype"], "rounded")


def _cache_after(e: Emission, op: Op, update: Op) -> TrtTensor:
    """A cache with what is new in its place, dequantized: both are dequantized first, since 8 bits cannot be placed."""
    cache, new, at, _ = update.operands
    scales, axis = _constant_scale(e, op.operands[1])
    dtype = e.data_type(op.attrs["dtype"])

    def wide(value: Value, detail: str) -> TrtTensor:
        layer = e.network.add_dequantize(e[value], scales, dtype)
        if layer is not None and axis is not None:
            layer.axis = axis
        return e.layer(layer, detail)

    old, fresh = wide(cache, "old"), wide(new, "new")
    length = new.type.shape[LINEAR.POSITION]
    assert isinstance(length, int)
    inside = e.once(("inside", cache_key(cache), at.name, str(length)), lambda: _inside(e, cache, at, length))
    if length > 1:
        places = e.once(("places", cache_key(cache), at.name, str(length)), lambda: _places(e, cache, at, length))
        gather = e.network.add_gather(fresh, places, LINEAR.POSITION)
        gather.num_elementwise_dims = 1
        fresh = e.layer(gather, "placed")
    return e.layer(e.network.add_select(inside, fresh, old))


def cache_key(cache: Value) -> str:
    """The capacity, as part of a key."""
    return str(cache.type.shape[LINEAR.POSITION])


def _distances(e: Emission, cache: Value, at: Value) -> TrtTensor:
    """How far each place of a cache is behind a row's past, `i32[B, C]`."""
    batch, capacity = cache.type.shape[LINEAR.ROW], cache.type.shape[LINEAR.POSITION]
    assert isinstance(capacity, int)

    def make() -> TrtTensor:
        start = reshaped(e, e[at], (batch,), (batch, 1), "start")
        return e.elementwise(e.vector(range(capacity), DType.i32, 2), start, "SUB", "distances")

    return e.once(("distances", cache_key(cache), at.name), make)


def _inside(e: Emission, cache: Value, at: Value, length: int) -> TrtTensor:
    """Which places of a cache a run writes, `bool[B, 1, C, 1]`."""
    batch, capacity = cache.type.shape[LINEAR.ROW], cache.type.shape[LINEAR.POSITION]
    distances = _distances(e, cache, at)
    after = e.elementwise(distances, e.number(-1, DType.i32, 2), "GREATER", "after")
    before = e.elementwise(distances, e.number(length, DType.i32, 2), "LESS", "before")
    both = e.elementwise(after, before, "AND", "inside")
    return reshaped(e, both, (batch, capacity), LINEAR.shaped(batch, 1, capacity, 1), "written")


def _places(e: Emission, cache: Value, at: Value, length: int) -> TrtTensor:
    """Which of a run's tokens each place of a cache is for, `i32[B, C]`."""
    least = e.elementwise(_distances(e, cache, at), e.number(0, DType.i32, 2), "MAX", "least")
    return e.elementwise(least, e.number(length - 1, DType.i32, 2), "MIN", "places")


def _constant_scale(e: Emission, scale: Value) -> tuple[TrtTensor, int | None]:
    """A constant scale, and the axis that it has one for each index of; None for a single one."""
    values = e.source.tensor(scale).float()
    axes = [axis for axis, size in enumerate(values.shape) if size > 1]
    shape = (-1,) if axes else ()
    key = ("scale", scale.name)
    made = e.once(key, lambda: e.constant(scale.name, values.reshape(shape).to(torch.float32)))
    return made, axes[0] if axes else None


def _with_axis(e: Emission, layer: TrtTensor, axis: int | None) -> TrtTensor:
    if layer is not None and axis is not None:
        layer.axis = axis
    return e.layer(layer)
