"""Ops that act on every element alone, written as one function of tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from torch import Tensor

from compiler.ir.evaluators.core import evaluates
from compiler.ir.op import Op, OpKind
from compiler.ir.op import op as register_op
from compiler.ir.types import TensorType
from compiler.passes.parallel import OpFactors, sharding_rule
from runtime.executors.torch.lowering import Lowering, lowers


def register_elementwise_op(compute: Callable[..., Tensor]) -> OpKind:
    """Decorator: register a function of tensors that acts on every element alone as an op, under its own name.

    The interpreter and torch call the function; `tp` splits what it is given in any way. Its first positional parameter
    is a tensor of the shape and the element type of the result, others are tensors that broadcast against it;
    keyword-only parameters are attributes, with their types. For TensorRT, add a rule by `emits`.

    Raises:
        GraphError: if the name is taken.
    """
    name = compute.__name__.rstrip("_")

    @wraps(compute)
    def rule(x: TensorType, *others: TensorType, **attrs: Any) -> TensorType:
        return x

    @wraps(compute)
    def evaluate(attrs: Any, sizes: Any, *operands: Tensor) -> Tensor:
        return compute(*operands, **attrs)

    @wraps(compute)
    def lower(state: Lowering, op: Op) -> str:
        function = state.hold(name, partial(compute, **op.attrs))
        return f"{function}({', '.join(map(state.ref, op.operands))})"

    @wraps(compute)
    def place(factors: OpFactors) -> None:
        for operand in factors.operands:
            factors.aligned(operand, factors.results[0])

    evaluates(name)(evaluate)
    lowers(name)(lower)
    sharding_rule(name)(place)
    return register_op(rule)
