"""Small graphs of an op each, on which the torch executor and TensorRT's networks are compared with the interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from compiler.ir.builder import Builder
from compiler.ir.dims import Shape, symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange, Graph
from compiler.ir.op import Value
from compiler.ir.torch_types import to_torch

B, S = symbol("B"), symbol("S")
Make = Callable[[Builder, Sequence[Value]], Any]
X = (B, S, 8)


def literal(b: Builder, dtype: DType, *shape: int) -> Value:
    count = math.prod(shape)
    values = tuple(math.sin(1.7 * i + 0.3) for i in range(count))
    return b.literal(dtype=dtype, shape=shape, values=values)


# A row is of the op that its first word names.
OPS: dict[str, tuple[Sequence[Shape], Make]] = {
    "add": ([X, X], lambda b, v: b.add(*v)),
    "add broadcast": ([X, (S, 1)], lambda b, v: b.add(*v)),
    "sub": ([X, (8,)], lambda b, v: b.sub(*v)),
    "mul": ([(B, 1, 8), X], lambda b, v: b.mul(*v)),
    "div": ([X, X], lambda b, v: b.div(*v)),
    "less": ([X, X], lambda b, v: b.less(*v)),
    "less_equal": ([X, X], lambda b, v: b.less_equal(v[0], v[0])),
    "logical_and": ([X, X], lambda b, v: b.logical_and(b.less(*v), b.less_equal(*v))),
    "where": ([X, X], lambda b, v: b.where(b.less(*v), v[0], v[1])),
    "scale": ([X], lambda b, v: b.scale(v[0], factor=0.3)),
    "clamp": ([X], lambda b, v: b.clamp(v[0], min=-0.5, max=0.25)),
    "cast up": ([X], lambda b, v: b.cast(v[0], dtype=DType.f32)),
    "cast to integer": ([X], lambda b, v: b.cast(b.scale(v[0], factor=4.0), dtype=DType.i32)),
    "relu": ([X], lambda b, v: b.relu(v[0])),
    "gelu": ([X], lambda b, v: b.gelu(v[0])),
    "gelu tanh": ([X], lambda b, v: b.gelu(v[0], tanh=True)),
    "silu": ([X], lambda b, v: b.silu(v[0])),
    "sigmoid": ([X], lambda b, v: b.sigmoid(v[0])),
    "tanh": ([X], lambda b, v: b.tanh(v[0])),
    "cos": ([X], lambda b, v: b.cos(v[0])),
    "sin": ([X], lambda b, v: b.sin(v[0])),
    "reshape keeps": ([X], lambda b, v: b.reshape(v[0], shape=(B, S, 2, 4))),
    "reshape infers": ([X], lambda b, v: b.reshape(v[0], shape=(B, 1, 4, S, 2))),
    "reshape moves both": ([X], lambda b, v: b.reshape(v[0], shape=(1, B, S, 8))),
    "transpose": ([X], lambda b, v: b.transpose(v[0], perm=(2, 0, 1))),
    "slice": ([X], lambda b, v: b.slice(v[0], axis=-1, start=3, size=4)),
    "slice symbolic": ([(B, 2 * S, 3)], lambda b, v: b.slice(v[0], axis=1, start=S, size=S)),
    "split": ([X], lambda b, v: b.split(v[0], axis=-1, sizes=(3, 5), names=("first", "second"))),
    "concat": ([X, (B, S, 3)], lambda b, v: b.concat(*v, axis=2)),
    "broadcast": ([(B, 1, 8)], lambda b, v: b.broadcast(v[0], shape=(3, B, S, 8))),
    "iota": ([X], lambda b, v: b.add(b.iota(size=S), b.literal(dtype=DType.i32, shape=(1,), values=(2,)))),
    "iota fixed": ([X], lambda b, v: b.iota(size=5)),
    "embedding": (
        [X],
        lambda b, v: b.embedding(literal(b, v[0].type.dtype, 9, 4), b.reshape(b.iota(size=S), shape=(1, S))),
    ),
    "gather_rows": ([X], lambda b, v: b.gather_rows(v[0], some_rows(b))),
    "linear": ([X], lambda b, v: b.linear(v[0], literal(b, v[0].type.dtype, 5, 8))),
    "linear bias": (
        [X],
        lambda b, v: b.linear(v[0], literal(b, v[0].type.dtype, 5, 8), literal(b, v[0].type.dtype, 5)),
    ),
    "matmul": ([X, (8, 6)], lambda b, v: b.matmul(*v)),
    "matmul transposed": ([X, (B, 4, 8)], lambda b, v: b.matmul(*v, transpose_b=True)),
    "softmax": ([X], lambda b, v: b.softmax(v[0], axis=1)),
    "amax": ([X], lambda b, v: b.amax(v[0], axis=1)),
    "layer_norm": ([X], lambda b, v: b.layer_norm(v[0], eps=1e-3)),
    "layer_norm weight": ([X], lambda b, v: b.layer_norm(v[0], literal(b, v[0].type.dtype, 8))),
    "layer_norm bias": (
        [X],
        lambda b, v: b.layer_norm(v[0], literal(b, v[0].type.dtype, 8), literal(b, v[0].type.dtype, 8)),
    ),
    "rms_norm": ([X], lambda b, v: b.rms_norm(v[0], eps=1e-3)),
    "rms_norm weight": ([X], lambda b, v: b.rms_norm(v[0], literal(b, v[0].type.dtype, 8))),
    "rotary": ([(B, 2, S, 8)], lambda b, v: b.rotary(v[0], *angles(b, 4))),
    "rotary interleaved": ([(B, 2, S, 8)], lambda b, v: b.rotary(v[0], *angles(b, 4), interleaved=True)),
    "rotary partial": ([(B, 2, S, 8)], lambda b, v: b.rotary(v[0], *angles(b, 2), interleaved=True)),
    "attention": (
        [(B, 4, S, 8), (B, 4, 7, 8), (B, 4, 7, 8), (S, 7)],
        lambda b, v: b.attention(v[0], v[1], v[2], b.less_equal(v[3], b.add(v[3], v[3])), scale=0.4),
    ),
    "attention grouped": (
        [(B, 4, S, 8), (B, 2, 7, 8), (B, 2, 7, 8), (B, 1, S, 7)],
        lambda b, v: b.attention(v[0], v[1], v[2], b.less_equal(v[3], b.add(v[3], v[3]))),
    ),
    "attention bias": (
        [(B, 4, S, 8), (B, 1, 7, 8), (B, 1, 7, 8), (1, 4, 1, 7)],
        lambda b, v: b.attention(v[0], v[1], v[2], b.less_equal(v[3], b.add(v[3], v[3])), v[3]),
    ),
}  # fmt: skip


def angles(b: Builder, half: int) -> tuple[Value, Value]:
    positions = b.cast(b.iota(size=S), dtype=DType.f32)
    column = b.reshape(positions, shape=(1, S, 1))
    rows = b.broadcast(column, shape=(B, S, half))
    return b.cos(rows), b.sin(rows)


def some_rows(b: Builder) -> Value:
    return b.broadcast(b.reshape(b.iota(size=2), shape=(1, 2)), shape=(B, 2))


def op_graph(name: str, dtype: DType) -> Graph:
    """The graph of a row of `OPS`, whose inputs are of that type."""
    shapes, make = OPS[name]
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4), "S": DimRange(1, 3, 8)}
    first = b.input("shape", DType.i32, B, S)  # shows the dims to graphs whose other inputs do not
    inputs = [b.input(f"x{i}", dtype, *shape) for i, shape in enumerate(shapes)]
    made = make(b, inputs)
    for i, value in enumerate(made if isinstance(made, tuple) else (made,)):
        b.output(f"y{i}", value)
    b.output("same", first)
    return b.build()


def op_inputs(graph: Graph) -> dict[str, Tensor]:
    """Numbers for the inputs of a graph, for dims of 2 and 5."""
    return {value.name: _numbers(value, seed) for seed, value in enumerate(graph.inputs)}


def _numbers(value: Value, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = value.type.sizes({"B": 2, "S": 5})
    return torch.randn(shape, generator=generator).to(to_torch(value.type.dtype))
