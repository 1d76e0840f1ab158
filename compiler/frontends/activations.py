"""The activation functions that configs name, as ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler.ir.builder import Builder
from compiler.ir.op import Value

# Appends ops and returns their result; Any because that is what a builder's methods return.
Activation = Callable[[Builder, Value], Any]


def _gelu(b: Builder, x: Value) -> Any:
    return b.gelu(x, name="act")


def _gelu_tanh(b: Builder, x: Value) -> Any:
    return b.gelu(x, tanh=True, name="act")


def _silu(b: Builder, x: Value) -> Any:
    return b.silu(x, name="act")


def _relu2(b: Builder, x: Value) -> Any:
    positive = b.relu(x)
    return b.mul(positive, positive, name="act")


def _hardswish(b: Builder, x: Value) -> Any:
    three = b.literal(dtype=x.type.dtype, shape=(1,), values=(3.0,))
    gate = b.clamp(b.add(x, three), min=0.0, max=6.0)
    return b.mul(x, b.scale(gate, factor=1 / 6), name="act")


# The names of transformers; several of them are the same function written differently.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": _gelu,
    "gelu_10": lambda b, x: b.clamp(b.gelu(x), min=-10.0, max=10.0, name="act"),
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "hardswish": _hardswish,
    "leaky_relu": lambda b, x: b.sub(b.relu(x), b.scale(b.relu(b.scale(x, factor=-1.0)), factor=0.01), name="act"),
    "linear": lambda b, x: x,
    "quick_gelu": lambda b, x: b.mul(x, b.sigmoid(b.scale(x, factor=1.702)), name="act"),
    "relu": lambda b, x: b.relu(x, name="act"),
    "relu2": _relu2,
    "relu6": lambda b, x: b.clamp(x, min=0.0, max=6.0, name="act"),
    "sigmoid": lambda b, x: b.sigmoid(x, name="act"),
    "silu": _silu,
    "swish": _silu,
    "tanh": lambda b, x: b.tanh(x, name="act"),
}
