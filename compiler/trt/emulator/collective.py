"""Layers that talk to the other ranks."""

from __future__ import annotations

import json

from torch import Tensor

from compiler.trt.emulator.table import Call, Communicator, emulates
from compiler.trt.record import LayerRecord, NetworkRecord

_COLLECTIVES = ("all_reduce_sum", "all_gather")


def _collective(layer: LayerRecord) -> str | None:
    try:
        content = json.loads(layer.metadata)
    except ValueError:
        return None
    return content.get("collective") if isinstance(content, dict) else None


def _is_known(layer: LayerRecord, record: NetworkRecord) -> str | None:
    name = _collective(layer)
    if name in _COLLECTIVES:
        return None
    found = f"says {name!r}" if name else "does not say which one"
    return f"is a collective whose metadata {found}; the emulator has {', '.join(_COLLECTIVES)}"


def _communicator(call: Call) -> Communicator:
    if call.communicator is None:
        raise call.error("has no communicator", hint="call set_communicator on the context before it runs")
    return call.communicator


@emulates("DIST_COLLECTIVE", inputs=1, check=_is_known)
def dist_collective(call: Call) -> Tensor:
    """The sum over the ranks, or their tensors put together along dimension 0."""
    x = call.tensor(0)
    if _collective(call.layer) == "all_reduce_sum":
        return x if x.is_meta else _communicator(call).all_reduce(x)
    communicator = _communicator(call)
    if x.is_meta:
        return x.new_empty(x.shape[0] * communicator.size, *x.shape[1:])
    return communicator.all_gather(x)
