"""Quantized activations and caches.

TensorRT's own layers take scales that are constants. By a scale that a run computes, such as one a token, the values
are divided in float32 before they are rounded by a scale of 1; linears multiply by it after their product.
"""

from __future__ import annotations

import torch

from compiler.backend_trt.emission import Emission, TrtTensor, emits
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
    return e.layer(e.network.add_quantize(ratio, e.number(1.0, DType.f32, 0), given))


@emits("dequantize")
def _dequantize(e: Emission, op: Op) -> TrtTensor:
    q, scale = op.operands
    if scale.name in e.stored:
        scales, axis = _constant_scale(e, scale)
        # float16 products of integers overflow.
        given = DType.f32 if feeds_linears(e, op) else op.attrs["dtype"]
        return _with_axis(e, e.network.add_dequantize(e[q], scales, e.data_type(given)), axis)
    one = e.number(1.0, DType.f32, 0)
    if token_scale(e, op) is not None:
        return e.layer(e.network.add_dequantize(e[q], one, e.data_type(DType.f32)))
    codes = e.layer(e.network.add_dequantize(e[q], one, e.data_type(DType.f32)), "codes")
    return e.cast(e.elementwise(codes, e[scale], "PROD", "scaled"), op.attrs["dtype"], "rounded")


def feeds_linears(e: Emission, op: Op) -> bool:
    """Whether nothing but linears over quantized weights reads what an op dequantizes, as their input."""
    users = e.graph.users.get(op.name, ())
    return op.result not in e.graph.outputs.values() and all(
        user.kind.name == "linear" and user.operands[0] == op.result and user.operands[1].name in e.packed
        for user in users
    )


def token_scale(e: Emission, op: Op | None) -> Value | None:
    """The scale of a token that linears multiply by after their product, if `op` dequantizes an input by one."""
    if op is None or op.kind.name != "dequantize" or op.name in e.packed or op.operands[1].name in e.stored:
        return None
    scale = op.operands[1]
    return scale if scale.type.shape[-1] == 1 and feeds_linears(e, op) else None


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
