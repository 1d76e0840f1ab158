"""The plug-in layer of products, by what it means in the IR: linear over a dequantized weight, and an activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compiler.ir.evaluators.core import evaluator
from compiler.ir.int4 import unchunk_int4
from compiler.trt_emulator.memory import upcast
from compiler.trt_emulator.table import LayerCall, emulates
from compiler.trt_network.products import ACTIVATIONS, FLOATS, FORMS, PRODUCT, ProductSpec
from compiler.trt_network.record import LayerRecord, NetworkRecord

_SIZES = ("rows", "columns", "group", "chunk", "factor", "zero", "bias")
_JOINED = ("sections", "widths", "starts", "whole")
_EVALUATED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "relu": ("relu", {}),
    "silu": ("silu", {}),
    "gelu": ("gelu", {"tanh": False}),
    "gelu_tanh": ("gelu", {"tanh": True}),
}
"""The op of the IR that each activation is."""


def _lacking(layer: LayerRecord, record: NetworkRecord) -> str | None:
    spec = ProductSpec.of(layer.params)
    given = [name for name in layer.inputs if name is not None]
    if len(given) != len(spec.inputs):
        return f"reads {len(given)} tensors, not {', '.join(spec.inputs)}"
    odd = [activation for _, activation in spec.parts if activation not in (None, *ACTIVATIONS)]
    return f"has a section with the activation {odd[0]}, which the emulator lacks" if odd else None


@emulates(
    PRODUCT, *_SIZES, inputs=8, optional=_JOINED, check=_lacking, version=(ProductSpec.version,), form=FORMS,
    activation=(None, *ACTIVATIONS), rounded=(None, *FLOATS),
)  # fmt: skip
def product(call: LayerCall) -> Tensor:
    """`act(x W^T + b)` in float32, by the interpreter's evaluators."""
    spec = ProductSpec.of(call.layer.params)
    given = dict(zip(spec.inputs, call.tensors(), strict=True))
    xs = [_input(given, name, columns) for name, columns in zip(("x", "x1"), spec.columns_read, strict=False)]
    bias = (upcast(given["bias"]),) if spec.bias else ()
    result: Tensor = evaluator("linear").compute({}, {}, torch.cat(xs, -1), _weight(spec, given), *bias)
    sections = result.split([size for size, _ in spec.parts], -1)
    return torch.cat([_activated(y, name) for y, (_, name) in zip(sections, spec.parts, strict=True)], -1)


def _input(given: Mapping[str, Tensor], name: str, columns: slice) -> Tensor:
    """An input in float32."""
    x = upcast(given[name])[..., columns]
    scale = given.get(f"{name}_scale")
    if scale is None:
        return x
    shape = (1,) * x.ndim if scale.numel() == 1 else (*x.shape[:-1], 1)
    wide: Tensor = evaluator("dequantize").compute({}, {}, x, scale.reshape(shape))
    return wide


def _activated(x: Tensor, activation: str | None) -> Tensor:
    if activation is None:
        return x
    kind, attrs = _EVALUATED[activation]
    result: Tensor = evaluator(kind).compute(attrs, {}, x)
    return result


def _weight(spec: ProductSpec, given: Mapping[str, Tensor]) -> Tensor:
    """The weight `[N, K]` in float32."""
    codes = given["codes"]
    if spec.form == "dense":
        return upcast(codes)
    if spec.form == "int4":
        codes = unchunk_int4(codes.view(torch.uint8))
    elif spec.form == "float8":
        codes = codes.view(torch.float8_e4m3fn)
    scale = given["scale"].t() / spec.factor
    zero = (given["zero"].t(),) if spec.zero else ()
    weight: Tensor = evaluator("dequantize").compute({}, {}, codes, scale, *zero)
    return weight
