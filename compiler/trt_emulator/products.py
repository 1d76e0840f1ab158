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
from compiler.trt_network.products import ACTIVATIONS, FORMS, PRODUCT, VERSION, ProductSpec
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
    PRODUCT, *_SIZES, inputs=5, check=_lacking, version=(VERSION,), form=FORMS, activation=(None, *ACTIVATIONS)
)  # fmt: skip
def product(call: LayerCall) -> Tensor:
    """`act(x W^T + b)` in float32, by the interpreter's evaluators."""
    spec = ProductSpec.of(call.layer.params)
    given = dict(zip(spec.inputs, map(upcast, call.tensors()), strict=True))
    result: Tensor = evaluator("linear").compute({}, {}, given["x"], _weight(spec, given), *_bias(given))
    if spec.activation is None:
        return result
    kind, attrs = _EVALUATED[spec.activation]
    activated: Tensor = evaluator(kind).compute(attrs, {}, result)
    return activated


def _bias(given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return (given["bias"],) if "bias" in given else ()


def _weight(spec: ProductSpec, given: Mapping[str, Tensor]) -> Tensor:
    """The weight `[N, K]` in float32."""
    codes = given["codes"]
    if spec.form == "dense":
        return codes
    if spec.form == "int4":
        codes = unchunk_int4(codes.view(torch.uint8))
    elif spec.form == "float8":
        codes = codes.view(torch.float8_e4m3fn)
    scale = given["scale"].t() / spec.factor
    zero = (given["zero"].t(),) if spec.zero else ()
    weight: Tensor = evaluator("dequantize").compute({}, {}, codes, scale, *zero)
    return weight
