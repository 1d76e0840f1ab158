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
from compiler.trt_network.products import ACTIVATIONS, FLOATS, FORMS, PRODUCT, VERSION, ProductSpec
from compiler.trt_network.record import LayerRecord, NetworkRecord

_SIZES = ("rows", "columns", "group", "chunk", "factor", "zero", "bias")
_EVALUATED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "relu": ("relu", {}),
    "silu": ("silu", {}),
    "gelu": ("gelu", {"tanh": False}),
    "gelu_tanh": ("gelu", {"tanh": True}),
}
"""The op of the IR that each activation is."""


def _lacking(layer: LayerRecord, record: NetworkRecord) -> str | None:
    wanted = ProductSpec.of(layer.params).inputs
    given = [name for name in layer.inputs if name is not None]
    return f"reads {len(given)} tensors, not {', '.join(wanted)}" if len(given) != len(wanted) else None


@emulates(
    PRODUCT, *_SIZES, inputs=6, check=_lacking, version=(VERSION,), form=FORMS, activation=(None, *ACTIVATIONS),
    rounded=(None, *FLOATS),
)  # fmt: skip
def product(call: LayerCall) -> Tensor:
    """`act(x W^T + b)` in float32, by the interpreter's evaluators."""
    spec = ProductSpec.of(call.layer.params)
    given = dict(zip(spec.inputs, call.tensors(), strict=True))
    x = upcast(given["x"])
    if spec.rounded:
        x = evaluator("dequantize").compute({}, {}, x, given["x_scale"].reshape(*_scale_shape(given), 1))
    bias = (upcast(given["bias"]),) if spec.bias else ()
    result: Tensor = evaluator("linear").compute({}, {}, x, _weight(spec, given), *bias)
    if spec.activation is None:
        return result
    kind, attrs = _EVALUATED[spec.activation]
    activated: Tensor = evaluator(kind).compute(attrs, {}, result)
    return activated


def _scale_shape(given: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The dims of the scales of activations but for the last: one for all, or one for each."""
    x, scale = given["x"], given["x_scale"]
    return (1,) * (x.ndim - 1) if scale.numel() == 1 else tuple(x.shape[:-1])


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
