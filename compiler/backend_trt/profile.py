"""The optimization profile of a plan, from the ranges of its dims."""

from __future__ import annotations

from typing import Any

from compiler.ir.dims import evaluate
from compiler.ir.graph import Graph
from compiler.trt_network.record import ProfileRecord


def add_profile(builder: Any, config: Any, network: Any, name: str, graph: Graph) -> tuple[ProfileRecord, ...]:
    """Give a build the ranges of a graph's dims; returns what that says of the network's inputs.

    A network without dynamic dims needs none.
    """
    types = {value.name: value.type for value in graph.inputs}
    names = [network.get_input(i).name for i in range(network.num_inputs)]
    dynamic = [name for name in names if name in types and not types[name].is_fixed]
    if not dynamic:
        return ()
    profile = builder.create_optimization_profile()
    ranges: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {}
    for tensor in dynamic:
        ranges[tensor] = tuple(  # type: ignore[assignment]
            tuple(int(evaluate(dim, {s: size[end] for s, size in graph.dims.items()})) for dim in types[tensor].shape)
            for end in range(3)
        )
        profile.set_shape(tensor, *ranges[tensor])
    config.add_optimization_profile(profile)
    return (ProfileRecord(name, ranges),)
