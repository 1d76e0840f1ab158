"""Ops on weights that are written as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from compiler.ir.evaluators.core import evaluates
from compiler.ir.op import OpKind, op
from compiler.ir.ops.check import require
from compiler.ir.torch_types import from_torch, to_torch
from compiler.ir.types import TensorType


def register_weight_op(compute: Callable[..., Any]) -> OpKind:
    """Decorator: register a function of tensors as an op on weights, under its own name.

    Such an op costs nothing when the model runs: its operands are weights, or are made of weights, and it is computed
    once, when an engine's weights are written, one weight at a time. It needs no rules for targets. Its positional
    parameters are tensors, its keyword-only ones attributes, with their types; it returns a tensor or a tuple of them.

    The types of its results follow from running the function on tensors that have a shape and no data (torch's device
    `meta`): their shapes may not depend on values. Floating-point tensors arrive in float32 or float64, and
    floating-point results are rounded to the element type of the first floating-point operand.

    Raises:
        GraphError: if the name is taken.
    """

    @wraps(compute)
    def rule(*operands: TensorType, **attrs: Any) -> TensorType | tuple[TensorType, ...]:
        name = compute.__name__
        require(all(type_.is_fixed for type_ in operands), f"{name} computes weights, whose shapes have no symbols")
        made = compute(*map(_outline, operands), **attrs)
        floats = [type_.dtype for type_ in operands if type_.dtype.is_float]

        def type_of(tensor: Tensor) -> TensorType:
            rounded = tensor.is_floating_point() and floats
            return TensorType(floats[0] if rounded else from_torch(tensor.dtype), tuple(tensor.shape))

        return type_of(made) if isinstance(made, Tensor) else tuple(map(type_of, made))

    evaluates(compute.__name__.rstrip("_"))(_evaluator(compute))
    return op(rule)


def _outline(type_: TensorType) -> Tensor:
    """A tensor without data, as the function is given it."""
    dtype = torch.float32 if type_.dtype.is_float else to_torch(type_.dtype)
    return torch.empty(type_.sizes({}), dtype=dtype, device="meta")


def _evaluator(compute: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(compute)
    def evaluate(attrs: Any, sizes: Any, *operands: Tensor) -> Any:
        return compute(*operands, **attrs)

    return evaluate
