"""Layers that talk to the other ranks."""

from __future__ import annotations

import json

from torch import Tensor

from compiler.trt_emulator.table import LayerCall, RankExchange, emulates
from compiler.trt_network.record import LayerRecord, NetworkRecord

_COLLECTIVES = ("all_reduce_sum", "all_reduce_max", "all_gather")


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


def _communicator(call: LayerCall) -> RankExchange:
    if call.communicator is None:
        raise call.error("has no communicator", hint="call set_communicator on the context before it runs")
    if call.communicator.size != call.param("num_ranks"):
        raise call.error(
            f"is for {call.param('num_ranks')} ranks; its communicator has {call.communicator.size}",
            hint="give the context the communicator of the ranks that it was built for",
        )
    return call.communicator


@emulates("DIST_COLLECTIVE", "num_ranks", inputs=1, check=_is_known)
def dist_collective(call: LayerCall) -> Tensor:
    """The sum or the largest over the ranks, or their tensors put together along dimension 0."""
    x, collective = call.tensor(0), _collective(call.layer)
    if x.is_meta:
        return x if collective != "all_gather" else x.new_empty(x.shape[0] * call.param("num_ranks"), *x.shape[1:])
    if collective == "all_gather":
        return _communicator(call).all_gather(x)
    return _communicator(call).all_reduce(x) if collective == "all_reduce_sum" else _communicator(call).all_max(x)
