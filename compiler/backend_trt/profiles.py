"""Optimization profiles, from the ranges of a graph's dims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compiler.ir.dims import evaluate
from compiler.ir.graph import DimRange, Graph
from compiler.trt.record import ProfileRecord

# The prompt length that prefill is tuned for, where longer ones are allowed.
_TYPICAL_PROMPT = 512


@dataclass(frozen=True)
class Profile:
    """A name, and the range of each symbolic dim."""

    name: str
    dims: Mapping[str, DimRange]


def profiles_of(graph: Graph) -> tuple[Profile, ...]:
    """The profiles of a graph: for a step graph `decode` (one token a row, one row of logits) and `prefill`.

    A graph without the dims S and R, or whose S is always 1, has one profile.
    """
    dims = graph.dims
    if "S" not in dims or dims["S"].max == 1:
        return (Profile("all", dims),)
    one = DimRange(1, 1, 1)
    prompt = DimRange(dims["S"].min, max(dims["S"].min, min(dims["S"].max, _TYPICAL_PROMPT)), dims["S"].max)
    return (
        Profile("decode", {**dims, "S": one, **({"R": one} if "R" in dims else {})}),
        Profile("prefill", {**dims, "S": prompt}),
    )


def add_profiles(
    builder: Any, config: Any, network: Any, profiles: Sequence[Profile], graph: Graph
) -> tuple[ProfileRecord, ...]:
    """Give the profiles to a build; returns what each of them says of the network's inputs."""
    shapes = {value.name: value.type for value in graph.inputs}
    records = []
    for profile in profiles:
        added = builder.create_optimization_profile()
        ranges = {}
        for i in range(network.num_inputs):
            name = network.get_input(i).name
            ranges[name] = tuple(
                tuple(
                    int(evaluate(dim, {s: size[end] for s, size in profile.dims.items()})) for dim in shapes[name].shape
                )
                for end in range(3)
            )
            added.set_shape(name, *ranges[name])
        config.add_optimization_profile(added)
        records.append(ProfileRecord(profile.name, ranges))  # type: ignore[arg-type]
    return tuple(records)
