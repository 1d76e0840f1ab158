"""The layers of a graph, by the names of its values."""

from __future__ import annotations


def layer_of(name: str) -> str:
    """The layer that a value belongs to by its name: `layers.3` of `layers.3.attn.q`, `embed` of `embed.tokens`.

    A layer's name ends with the first number of a path. Without a number it is the first part of a path; what has no
    scope is its own.
    """
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[: place + 1])
    return parts[0]


def layer_number(layer: str) -> int | None:
    """The number of a layer: 3 of `layers.3`; None of one that has none, such as `embed`."""
    last = layer.rpartition(".")[2]
    return int(last) if last.isdecimal() else None
