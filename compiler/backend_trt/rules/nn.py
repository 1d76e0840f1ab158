"""Products, norms and softmax."""

from __future__ import annotations

import torch

from compiler.backend_trt.emission import Emission, TrtTensor, emits
from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from compiler.ir.torch_types import to_torch


@emits("matmul")
def _matmul(e: Emission, op: Op) -> TrtTensor:
    a, b = (e.ranked(value, op.result.type.rank) for value in op.operands)
    kinds = e.trt.MatrixOperation
    return e.layer(
        e.network.add_matrix_multiply(a, kinds.NONE, b, kinds.TRANSPOSE if op.attrs["transpose_b"] else kinds.NONE)
    )


@emits("softmax")
def _softmax(e: Emission, op: Op) -> TrtTensor:
    layer = e.network.add_softmax(e[op.operands[0]])
    layer.axes = 1 << (op.attrs["axis"] % op.result.type.rank)
    return e.layer(layer)


@emits("layer_norm")
def _layer_norm(e: Emission, op: Op) -> TrtTensor:
    x, *parameters = op.operands
    rank = x.type.rank
    scale = e.ranked(parameters[0], rank) if parameters else _filled(e, x, 1.0)
    shift = e.ranked(parameters[1], rank) if len(parameters) > 1 else _filled(e, x, 0.0)
    layer = e.network.add_normalization_v2(e[x], scale, shift, 1 << (rank - 1))
    if layer is not None:
        layer.epsilon = op.attrs["eps"]
    return e.layer(layer)


def _filled(e: Emission, x: Value, value: float) -> TrtTensor:
    """A parameter of a norm that has none: all ones, or all zeros."""
    shape = (1,) * (x.type.rank - 1) + x.type.sizes(dict.fromkeys(x.type.symbols, 1))[-1:]
    return e.constant(f"{e.op.name if e.op else ''}/{value:g}", torch.full(shape, value, dtype=to_torch(x.type.dtype)))


@emits("rms_norm")
def _rms_norm(e: Emission, op: Op) -> TrtTensor:
    x, *weight = op.operands
    rank, dtype = x.type.rank, x.type.dtype
    wide = e.cast(e[x], DType.f32, "f32")
    square = e.elementwise(wide, wide, "PROD", "square")
    mean = e.layer(e.network.add_reduce(square, e.trt.ReduceOperation.AVG, 1 << (rank - 1), True), "mean")
    shifted = e.elementwise(mean, e.number(op.attrs["eps"], DType.f32, rank), "SUM", "variance")
    root = e.layer(e.network.add_unary(shifted, e.trt.UnaryOperation.SQRT), "root")
    normal = e.elementwise(wide, root, "DIV", "normal")
    if weight:
        factor = e.cast(e.ranked(weight[0], rank), DType.f32, "weight.f32")
        normal = e.elementwise(normal, factor, "PROD", "scaled")
    return e.cast(normal, dtype)
