"""The op `soft_gate`, and all that llmc needs of it."""

from typing import Any

import torch
from torch import Tensor

import llmc


@llmc.register_op
def soft_gate(x: llmc.TensorType, *, slope: float = 1.0) -> llmc.TensorType:
    """`x * sigmoid(slope * x)`."""
    llmc.require(x.dtype.is_float, f"x is {x.dtype}, not a floating-point type")
    return x


@llmc.evaluates("soft_gate")
def _evaluate(attrs: Any, sizes: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(attrs["slope"] * x)


@llmc.lowers("soft_gate")
def _lower(state: llmc.Lowering, op: llmc.Op) -> str:
    x = state.ref(op.operands[0])
    return f"{x} * torch.sigmoid({op.attrs['slope']!r} * {x})"


@llmc.emits("soft_gate")
def _emit(e: llmc.Emission, op: llmc.Op) -> Any:
    x = op.operands[0]
    slope = e.number(op.attrs["slope"], x.type.dtype, x.type.rank)
    steep = e.elementwise(e[x], slope, "PROD", "steep")
    gate = e.layer(e.network.add_activation(steep, e.trt.ActivationType.SIGMOID), "gate")
    return e.elementwise(e[x], gate, "PROD")


@llmc.sharding_rule("soft_gate")
def _place(factors: llmc.OpFactors) -> None:
    factors.aligned(factors.operands[0], factors.results[0])
