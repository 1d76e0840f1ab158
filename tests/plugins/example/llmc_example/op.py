"""The op `soft_gate`, and all that llmc needs of it."""

import torch
from torch import Tensor

from compiler.backend_trt.emission import Emission, TrtTensor, emits
from compiler.ir.evaluators.core import Attrs, Sizes, evaluates
from compiler.ir.op import Op, op
from compiler.ir.ops.check import require
from compiler.ir.types import TensorType
from compiler.passes.parallel import OpFactors, sharding_rule
from runtime.executors.torch.lowering import Lowering, lowers


@op
def soft_gate(x: TensorType, *, slope: float = 1.0) -> TensorType:
    """`x * sigmoid(slope * x)`."""
    require(x.dtype.is_float, f"x is {x.dtype}, not a floating-point type")
    return x


@evaluates("soft_gate")
def _evaluate(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return x * torch.sigmoid(attrs["slope"] * x)


@lowers("soft_gate")
def _lower(state: Lowering, op: Op) -> str:
    x = state.ref(op.operands[0])
    return f"{x} * torch.sigmoid({op.attrs['slope']!r} * {x})"


@emits("soft_gate")
def _emit(e: Emission, op: Op) -> TrtTensor:
    x = op.operands[0]
    slope = e.number(op.attrs["slope"], x.type.dtype, x.type.rank)
    steep = e.elementwise(e[x], slope, "PROD", "steep")
    gate = e.layer(e.network.add_activation(steep, e.trt.ActivationType.SIGMOID), "gate")
    return e.elementwise(e[x], gate, "PROD")


@sharding_rule("soft_gate")
def _place(factors: OpFactors) -> None:
    factors.aligned(factors.operands[0], factors.results[0])
