"""Elementwise ops. TensorRT's layers want operands of one rank and one element type."""

from __future__ import annotations

import torch

from compiler.backend_trt.emission import Emission, TrtTensor, emits
from compiler.ir.dtypes import DType
from compiler.ir.op import Op
from compiler.ir.torch_types import to_torch

_OPERATIONS = {"add": "SUM", "sub": "SUB", "mul": "PROD", "div": "DIV", "less": "LESS", "logical_and": "AND"}
_ACTIVATIONS = {"relu": "RELU", "sigmoid": "SIGMOID", "tanh": "TANH"}
_UNARY = {"cos": "COS", "sin": "SIN"}


@emits(*_OPERATIONS)
def _binary(e: Emission, op: Op) -> TrtTensor:
    rank = op.result.type.rank
    a, b = (e.ranked(value, rank) for value in op.operands)
    return e.elementwise(a, b, _OPERATIONS[op.kind.name])


@emits("less_equal")
def _less_equal(e: Emission, op: Op) -> TrtTensor:
    rank = op.result.type.rank
    a, b = (e.ranked(value, rank) for value in op.operands)
    greater = e.elementwise(a, b, "GREATER", "greater")
    return e.layer(e.network.add_unary(greater, e.trt.UnaryOperation.NOT))


@emits("where")
def _where(e: Emission, op: Op) -> TrtTensor:
    return e.layer(e.network.add_select(*(e.ranked(value, op.result.type.rank) for value in op.operands)))


@emits("scale")
def _scale(e: Emission, op: Op) -> TrtTensor:
    x = op.operands[0]
    return scaled(e, e[x], op.attrs["factor"], x.type.dtype, x.type.rank)


def scaled(e: Emission, x: TrtTensor, factor: float, dtype: DType, rank: int, detail: str = "") -> TrtTensor:
    """`x * factor`, rounded once: a factor that its element type cannot hold is multiplied in float32."""
    exact = torch.tensor(factor, dtype=to_torch(dtype)).item() == torch.tensor(factor, dtype=torch.float32).item()
    if exact:
        return e.elementwise(x, e.number(factor, dtype, rank), "PROD", detail)
    wide = e.cast(x, DType.f32, f"{detail or 'scale'}.f32")
    return e.cast(
        e.elementwise(wide, e.number(factor, DType.f32, rank), "PROD", f"{detail or 'scale'}.product"), dtype, detail
    )


@emits("clamp")
def _clamp(e: Emission, op: Op) -> TrtTensor:
    x = op.operands[0]
    low, high = (e.number(op.attrs[name], x.type.dtype, x.type.rank) for name in ("min", "max"))
    return e.elementwise(e.elementwise(e[x], low, "MAX", "above min"), high, "MIN")


@emits("cast")
def _cast(e: Emission, op: Op) -> TrtTensor:
    return e.layer(e.network.add_cast(e[op.operands[0]], e.data_type(op.attrs["dtype"])))


@emits(*_ACTIVATIONS)
def _activation(e: Emission, op: Op) -> TrtTensor:
    return _activate(e, e[op.operands[0]], _ACTIVATIONS[op.kind.name])


@emits("gelu")
def _gelu(e: Emission, op: Op) -> TrtTensor:
    return _activate(e, e[op.operands[0]], "GELU_TANH" if op.attrs["tanh"] else "GELU_ERF")


def _activate(e: Emission, x: TrtTensor, kind: str, detail: str = "") -> TrtTensor:
    return e.layer(e.network.add_activation(x, getattr(e.trt.ActivationType, kind)), detail)


@emits("silu")
def _silu(e: Emission, op: Op) -> TrtTensor:
    x = op.operands[0]
    wide = e.cast(e[x], DType.f32, "f32")
    gate = _activate(e, wide, "SIGMOID", "sigmoid")
    if x.type.dtype is DType.f32:
        return e.elementwise(wide, gate, "PROD")
    return e.cast(e.elementwise(wide, gate, "PROD", "product"), x.type.dtype)


@emits(*_UNARY)
def _unary(e: Emission, op: Op) -> TrtTensor:
    return e.layer(e.network.add_unary(e[op.operands[0]], getattr(e.trt.UnaryOperation, _UNARY[op.kind.name])))
