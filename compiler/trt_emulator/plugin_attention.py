"""The plug-in layer of attention, by what it means in the IR: rotary, the updates of caches, and attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.dtypes import DType
from compiler.ir.evaluators.core import evaluator
from compiler.trt_emulator.memory import upcast
from compiler.trt_emulator.table import LayerCall, emulates
from compiler.trt_network.attention import ATTENTION, AttentionSpec
from compiler.trt_network.record import LayerRecord, NetworkRecord

_ATTRIBUTES = ("heads", "kv_heads", "width", "scale", "reads", "window", "turned", "interleaved", "alibi")
_CACHES: Mapping[str, DType] = {"INT8": DType.i8, "FP8": DType.f8e4m3}


def _fault(layer: LayerRecord, record: NetworkRecord) -> str | None:
    spec = AttentionSpec.of(layer.params)
    given = [name for name in layer.inputs if name is not None]
    if len(given) != len(spec.inputs):
        return f"reads {len(given)} tensors, not {', '.join(spec.inputs)}"
    named = dict(zip(spec.inputs, given, strict=True))
    if any(named[name] not in record.inputs for name in ("k_cache", "v_cache")):
        return "writes to caches that are no inputs of the network"
    return None


@emulates(
    ATTENTION, *_ATTRIBUTES, inputs=None, optional=("in_place",), check=_fault, version=(AttentionSpec.version,),
    cache=(None, *_CACHES),
)  # fmt: skip
def attention(call: LayerCall) -> tuple[Tensor, ...]:
    """The context in float32, and the caches, written to in place; by the interpreter's evaluators."""
    spec = AttentionSpec.of(call.layer.params)
    given = dict(zip(spec.inputs, call.tensors(), strict=True))
    caches = given["k_cache"], given["v_cache"]
    batch = len(given["x0"])
    if given["x0"].is_meta:
        return (given["x0"].new_empty(batch, 1, spec.heads * spec.width), *caches)
    q, k, v = (_heads(spec, given, which) for which in range(3))
    if spec.turned:
        q, k = (_turned(spec, given, x) for x in (q, k))
    past, capacity = given["past"].long(), caches[0].shape[LINEAR.POSITION]
    live = (past < capacity).nonzero()[:, 0]
    read = []
    for name, cache, new in (("k_scale", caches[0], k), ("v_scale", caches[1], v)):
        scale = given[name].reshape(1, -1, 1, 1) if spec.cache else None
        stored = new if scale is None else _quantized(spec, new, scale)
        cache[live, :, past[live]] = stored[live, :, 0].to(cache.dtype)
        read.append(upcast(cache) if scale is None else evaluator("dequantize").compute({}, {}, cache, scale))
    slots, at = torch.arange(capacity), past.reshape(-1, 1, 1, 1)
    mask = slots <= at
    if spec.window >= 0:
        mask = mask & (at - spec.window <= slots)
    bias = (given["slopes"] * (slots - at).float(),) if spec.alibi else ()
    attrs = {"scale": spec.scale, "rounded": False}
    context = evaluator("attention").compute(attrs, {}, upcast(q), *read, mask, *bias)
    context[past >= capacity] = 0
    return (context.transpose(1, 2).reshape(batch, 1, -1), *caches)


def _heads(spec: AttentionSpec, given: Mapping[str, Tensor], which: int) -> Tensor:
    """Queries, keys or values, `[B, heads, 1, D]`."""
    number, start = spec.reads[which]
    heads = spec.kv_heads if which else spec.heads
    columns = given[f"x{number}"][..., start : start + heads * spec.width]
    return columns.reshape(len(columns), 1, heads, spec.width).transpose(1, 2)


def _turned(spec: AttentionSpec, given: Mapping[str, Tensor], x: Tensor) -> Tensor:
    attrs = {"interleaved": spec.interleaved}
    turned: Tensor = evaluator("rotary").compute(attrs, {}, upcast(x), given["cos"], given["sin"])
    return turned.to(x.dtype)


def _quantized(spec: AttentionSpec, x: Tensor, scale: Tensor) -> Tensor:
    assert spec.cache is not None
    result: Tensor = evaluator("quantize").compute({"dtype": _CACHES[spec.cache]}, {}, upcast(x), scale)
    return result
