"""What each op becomes: nodes of ONNX, opset 21.

What the ops of a transformer compute in float32 and round once, is computed here in float32, and cast once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.errors import TargetError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from llmc_onnx.emission import Emission, emits
from llmc_onnx.types import ELEMENT_TYPES

_SAME = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "logical_and": "And",
    "where": "Where",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "cos": "Cos",
    "sin": "Sin",
}


@emits(*_SAME)
def _same(e: Emission, op: Op) -> str:
    """An operator of ONNX is the same, with the same broadcasting."""
    return str(e.node(_SAME[op.kind.name], *(e[value] for value in op.operands)))


@emits("transfer")
def _transfer(e: Emission, op: Op) -> str:
    return e[op.operands[0]]


@emits("scale")
def _scale(e: Emission, op: Op) -> str:
    (x,) = op.operands
    return rounded(e, op, e.node("Mul", e.wide(x), e.constant(op.attrs["factor"], DType.f32)))


@emits("clamp")
def _clamp(e: Emission, op: Op) -> str:
    (x,) = op.operands
    low, high = (e.constant(op.attrs[name], x.type.dtype) for name in ("min", "max"))
    return str(e.node("Clip", e[x], low, high))


@emits("cast")
def _cast(e: Emission, op: Op) -> str:
    (x,) = op.operands
    return str(e.node("Cast", e[x], to=ELEMENT_TYPES[op.attrs["dtype"]]))


@emits("gelu")
def _gelu(e: Emission, op: Op) -> str:
    (x,) = op.operands
    return rounded(e, op, e.node("Gelu", e.wide(x), approximate="tanh" if op.attrs["tanh"] else "none"))


@emits("silu")
def _silu(e: Emission, op: Op) -> str:
    x = e.wide(op.operands[0])
    return rounded(e, op, e.node("Mul", x, e.node("Sigmoid", x)))


@emits("softmax")
def _softmax(e: Emission, op: Op) -> str:
    return rounded(e, op, e.node("Softmax", e.wide(op.operands[0]), axis=op.attrs["axis"]))


@emits("layer_norm")
def _layer_norm(e: Emission, op: Op) -> str:
    x, *affine = op.operands
    scale = e.wide(affine[0]) if affine else e.constant([1.0] * int(x.type.shape[-1]), DType.f32)  # type: ignore[arg-type]
    inputs = (e.wide(x), scale, *map(e.wide, affine[1:]))
    return rounded(e, op, e.node("LayerNormalization", *inputs, axis=-1, epsilon=op.attrs["eps"]))


@emits("rms_norm")
def _rms_norm(e: Emission, op: Op) -> str:
    """Written out: the operator for it is younger than the opset."""
    x, *weight = op.operands
    wide = e.wide(x)
    mean = e.node("ReduceMean", e.node("Mul", wide, wide, name="square"), e.axes(-1), name="mean")
    root = e.node("Sqrt", e.node("Add", mean, e.constant(op.attrs["eps"], DType.f32), name="shifted"), name="root")
    y = e.node("Div", wide, root, name="normed")
    return rounded(e, op, e.node("Mul", y, e.wide(weight[0])) if weight else y)


@emits("amax")
def _amax(e: Emission, op: Op) -> str:
    (x,) = op.operands
    return str(e.node("ReduceMax", e.node("Abs", e[x]), e.axes(op.attrs["axis"]), keepdims=1))


@emits("reshape")
def _reshape(e: Emission, op: Op) -> str:
    return e.reshape(e[op.operands[0]], op.attrs["shape"])


@emits("transpose")
def _transpose(e: Emission, op: Op) -> str:
    return str(e.node("Transpose", e[op.operands[0]], perm=op.attrs["perm"]))


@emits("slice")
def _slice(e: Emission, op: Op) -> str:
    start, size = op.attrs["start"], op.attrs["size"]
    return str(e.node("Slice", e[op.operands[0]], e.size(start), e.size(start + size), e.axes(op.attrs["axis"])))


@emits("split")
def _split(e: Emission, op: Op) -> list[str]:
    sizes = op.attrs["sizes"]
    x = e[op.operands[0]]
    made = e.node("Split", x, e.constant(sizes, DType.i64), axis=op.attrs["axis"], outputs=len(sizes))
    return [made] if isinstance(made, str) else made


@emits("concat")
def _concat(e: Emission, op: Op) -> str:
    return str(e.node("Concat", *(e[value] for value in op.operands), axis=op.attrs["axis"]))


@emits("broadcast")
def _broadcast(e: Emission, op: Op) -> str:
    return str(e.node("Expand", e[op.operands[0]], e.shape(op.attrs["shape"])))


@emits("iota")
def _iota(e: Emission, op: Op) -> str:
    dtype = op.attrs["dtype"]
    stop = e.cast(e.node("Squeeze", e.size(op.attrs["size"]), e.axes(0), name="stop"), DType.i64, dtype)
    return str(e.node("Range", e.constant(0, dtype), stop, e.constant(1, dtype)))


@emits("literal")
def _literal(e: Emission, op: Op) -> str:
    """Integers of 4 bits become such of 8."""
    values, shape = np.asarray(op.attrs["values"], np.float64), op.attrs["shape"]
    dtype = DType.i8 if op.attrs["dtype"] is DType.i4 else op.attrs["dtype"]
    return e.constant(np.broadcast_to(values, shape) if len(values) == 1 else values.reshape(shape), dtype)


@emits("embedding")
def _embedding(e: Emission, op: Op) -> str:
    table, ids = op.operands
    return str(e.node("Gather", e[table], e[ids], axis=0))


@emits("gather_rows")
def _gather_rows(e: Emission, op: Op) -> str:
    x, rows = op.operands
    index = e.node("Unsqueeze", e.cast(e[rows], rows.type.dtype, DType.i64), e.axes(-1), name="index")
    return str(e.node("GatherND", e[x], index, batch_dims=1))


@emits("matmul")
def _matmul(e: Emission, op: Op) -> str:
    a, b = op.operands
    right = _turned(e, e.wide(b), b.type.rank) if op.attrs["transpose_b"] else e.wide(b)
    return rounded(e, op, e.node("MatMul", e.wide(a), right))


@emits("rotary")
def _rotary(e: Emission, op: Op) -> str:
    """Each pair turns; what does not turn is put behind."""
    x, cos, sin = op.operands
    half, width = int(cos.type.shape[2]), int(x.type.shape[3])  # type: ignore[arg-type]
    wide, rest = e.wide(x), []
    if 2 * half < width:
        wide, *rest = e.node("Split", wide, e.constant([2 * half, width - 2 * half], DType.i64), axis=3, outputs=2)
    pairs = e.node(
        "Reshape", wide, e.constant([0, 0, 0, *((half, 2) if op.attrs["interleaved"] else (2, half))], DType.i64)
    )
    axis = 4 if op.attrs["interleaved"] else 3
    a, b = e.node("Split", pairs, e.constant([1, 1], DType.i64), axis=axis, outputs=2, name="pair")
    # Angles are `[B, S, R/2]`; heads are put before S, and the pair before or after R/2.
    c, s = (e.node("Unsqueeze", e[angle], e.axes(1, axis), name=angle.name.rpartition(".")[2]) for angle in (cos, sin))
    first = e.node("Sub", e.node("Mul", a, c), e.node("Mul", b, s), name="first")
    second = e.node("Add", e.node("Mul", b, c), e.node("Mul", a, s), name="second")
    turned = e.node("Concat", first, second, axis=axis, name="turned")
    flat = e.node("Reshape", turned, e.constant([0, 0, 0, 2 * half], DType.i64), name="flat")
    return rounded(e, op, e.node("Concat", flat, *rest, axis=3) if rest else flat)


@emits("attention")
def _attention(e: Emission, op: Op) -> str:
    """Query heads that share a key head are put one after the other, as more queries."""
    q, k, v, mask, *bias = op.operands
    batch, heads, length, width = q.type.shape
    kv_heads, capacity = k.type.shape[LINEAR.HEAD], k.type.shape[LINEAR.POSITION]
    group = heads // kv_heads  # type: ignore[operator]
    step: Callable[[str], str] = (lambda x: _through(e, x, q.type.dtype)) if op.attrs["rounded"] else lambda x: x
    queries = e.wide(q)
    if group > 1:
        queries = e.reshape(queries, (batch, kv_heads, group * length, width), "grouped")
    scores = e.node("MatMul", queries, _turned(e, e.wide(k), k.type.rank), name="scores")
    if group > 1:
        scores = e.reshape(scores, (batch, heads, length, capacity), "scores.heads")
    scores = step(scores)
    if op.attrs["scale"] != 1.0:
        scores = step(e.node("Mul", scores, e.constant(op.attrs["scale"], DType.f32), name="scaled"))
    if bias:
        scores = step(e.node("Add", scores, e.wide(bias[0]), name="biased"))
    scores = e.node("Where", e[mask], scores, e.constant(-math.inf, DType.f32), name="masked")
    probs = step(e.node("Softmax", scores, axis=-1, name="probs"))
    if group > 1:
        probs = e.reshape(probs, (batch, kv_heads, group * length, capacity), "probs.grouped")
    context = e.node("MatMul", probs, e.wide(v), name="context")
    if group > 1:
        context = e.reshape(context, (batch, heads, length, v.type.shape[LINEAR.WIDTH]), "context.heads")
    return rounded(e, op, context)


@emits("kv_update")
def _kv_update(e: Emission, op: Op) -> str:
    """Scatter what is new; in place of padding, what is there already is written once more."""
    cache, new, at, count = op.operands
    batch, heads, capacity, width = cache.type.shape
    length = new.type.shape[LINEAR.POSITION]
    if cache.type.dtype is DType.f8e4m3:
        raise TargetError(
            f"the cache %{cache.name} is {cache.type}, and ONNX has no operator that writes parts of such a tensor",
            hint="keep caches in another type: kv=int8, or kv=off",
        )
    # All caches of a step have the same places.
    start = e.shared(("index", at.name, length, capacity), lambda: _index(e, at, length, capacity))
    fresh = e.shared(("fresh", count.name, length), lambda: _fresh(e, count, length))
    index = e.shared(
        ("places", at.name, cache.type.shape, length),
        lambda: e.node("Expand", start, e.shape((batch, heads, length, width)), name="places"),
    )
    old = e.node("GatherElements", e[cache], index, axis=LINEAR.POSITION, name="old")
    if cache.type.dtype is DType.i8:  # onnxruntime chooses between values of few types
        chosen = e.node("Where", fresh, *(e.cast(x, DType.i8, DType.i32) for x in (e[new], old)), name="chosen")
        chosen = e.cast(chosen, DType.i32, DType.i8)
    else:
        chosen = e.node("Where", fresh, e[new], old, name="chosen")
    return str(e.node("ScatterElements", e[cache], index, chosen, axis=LINEAR.POSITION))


def _index(e: Emission, at: Value, length: Any, capacity: Any) -> str:
    """`i64[B,1,S,1]`: where each new position goes, around the end of a cache for padding that does not fit."""
    start = e.node("Unsqueeze", e.cast(e[at], at.type.dtype, DType.i64), e.axes(1, 2, 3), name="start")
    there = e.node("Add", start, _column(e, length), name="there")
    return str(e.node("Mod", there, e.size(capacity), name="index"))


def _fresh(e: Emission, count: Value, length: Any) -> str:
    """`bool[B,1,S,1]`: whether a position is none of padding."""
    total = e.node("Unsqueeze", e.cast(e[count], count.type.dtype, DType.i64), e.axes(1, 2, 3), name="count")
    return str(e.node("Less", _column(e, length), total, name="fresh"))


def _column(e: Emission, length: Any) -> str:
    """`i64[S,1]`: 0, 1, and so on."""
    stop = e.node("Squeeze", e.size(length), e.axes(0), name="stop")
    numbers = e.node("Range", e.constant(0, DType.i64), stop, e.constant(1, DType.i64), name="numbers")
    return str(e.node("Unsqueeze", numbers, e.axes(1), name="column"))


def rounded(e: Emission, op: Op, x: Any) -> str:
    """A result in float32, rounded to the type of the op's result."""
    return e.cast(str(x), DType.f32, op.result.type.dtype)


def _through(e: Emission, x: str, dtype: DType) -> str:
    """A value in float32, rounded to what another type has."""
    return e.cast(e.cast(x, DType.f32, dtype), dtype, DType.f32)


def _turned(e: Emission, x: str, rank: int) -> str:
    """The last two dims exchanged."""
    return str(e.node("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2], name="turned"))
