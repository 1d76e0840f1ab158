"""Layers that work element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.trt_emulator.memory import upcast
from compiler.trt_emulator.table import LayerCall, emulates


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


_BINARY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SUM": torch.add,
    "PROD": torch.mul,
    "MAX": torch.maximum,
    "MIN": torch.minimum,
    "SUB": torch.sub,
    "DIV": _divide,
    "POW": torch.pow,
    "FLOOR_DIV": torch.floor_divide,
    "AND": torch.logical_and,
    "OR": torch.logical_or,
    "XOR": torch.logical_xor,
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
}

_UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "EXP": torch.exp,
    "LOG": torch.log,
    "SQRT": torch.sqrt,
    "RECIP": torch.reciprocal,
    "ABS": torch.abs,
    "NEG": torch.neg,
    "SIN": torch.sin,
    "COS": torch.cos,
    "TAN": torch.tan,
    "SINH": torch.sinh,
    "COSH": torch.cosh,
    "ASIN": torch.asin,
    "ACOS": torch.acos,
    "ATAN": torch.atan,
    "ASINH": torch.asinh,
    "ACOSH": torch.acosh,
    "ATANH": torch.atanh,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ERF": torch.erf,
    "NOT": torch.logical_not,
    "SIGN": torch.sign,
    "ROUND": torch.round,
    "ISINF": torch.isinf,
    "ISNAN": torch.isnan,
}

_ACTIVATION: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {
    "RELU": lambda x, alpha, beta: torch.relu(x),
    "SIGMOID": lambda x, alpha, beta: torch.sigmoid(x),
    "TANH": lambda x, alpha, beta: torch.tanh(x),
    "LEAKY_RELU": lambda x, alpha, beta: torch.where(x >= 0, x, alpha * x),
    "ELU": lambda x, alpha, beta: torch.where(x >= 0, x, alpha * torch.expm1(x)),
    "SELU": lambda x, alpha, beta: beta * torch.where(x > 0, x, alpha * torch.expm1(x)),
    "SOFTSIGN": lambda x, alpha, beta: x / (1 + x.abs()),
    "SOFTPLUS": lambda x, alpha, beta: alpha * F.softplus(beta * x, threshold=100),
    "CLIP": lambda x, alpha, beta: x.clamp(max=beta).clamp(min=alpha),
    "HARD_SIGMOID": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "SCALED_TANH": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "THRESHOLDED_RELU": lambda x, alpha, beta: torch.where(x > alpha, x, 0),
    "GELU_ERF": lambda x, alpha, beta: F.gelu(x),
    "GELU_TANH": lambda x, alpha, beta: F.gelu(x, approximate="tanh"),
}


@emulates("ELEMENTWISE", inputs=2, op=_BINARY)
def elementwise(call: LayerCall) -> Tensor:
    """A binary operation on tensors of one rank; dimensions of 1 are broadcast, and integers divide towards zero."""
    a, b = call.tensor(0), call.tensor(1)
    if a.ndim != b.ndim:
        raise call.error(f"has inputs of ranks {a.ndim} and {b.ndim}", hint="reshape one of them with a SHUFFLE")
    return _BINARY[call.param("op")](upcast(a), upcast(b))


@emulates("UNARY", inputs=1, op=_UNARY)
def unary(call: LayerCall) -> Tensor:
    """A unary operation; ROUND rounds halves to even."""
    return _UNARY[call.param("op")](upcast(call.tensor(0)))


@emulates("ACTIVATION", "alpha", "beta", inputs=1, type=_ACTIVATION)
def activation(call: LayerCall) -> Tensor:
    """An activation, with its parameters `alpha` and `beta`."""
    return _ACTIVATION[call.param("type")](upcast(call.tensor(0)), call.param("alpha"), call.param("beta"))


@emulates("SELECT", inputs=3)
def select(call: LayerCall) -> Tensor:
    """Elements of the second input where the first holds, else of the third."""
    return torch.where(call.tensor(0), call.tensor(1), call.tensor(2))


@emulates("IDENTITY", inputs=1)
def identity(call: LayerCall) -> Tensor:
    """The input, in the type of the output."""
    return call.tensor(0)


@emulates("CAST", inputs=1, to_type=("FLOAT", "HALF", "BF16", "INT32", "INT64", "BOOL", "INT8", "UINT8"))
def cast(call: LayerCall) -> Tensor:
    """The input, in the type of the output."""
    return call.tensor(0)
