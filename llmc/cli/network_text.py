"""How `llmc inspect` shows a TensorRT network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def network_rows(network: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of the table."""
    from runtime.sizes import bytes_text

    layers: Mapping[str, int] = network["layers"]
    precisions = (
        f"{dtype} {count['tensors']} tensors"
        + (f" and {bytes_text(count['constant_bytes'])} of constants" if count["constant_bytes"] else "")
        for dtype, count in network["precisions"].items()
    )
    engine, constants, cache = (bytes_text(network[key]) for key in ("engine_bytes", "constant_bytes", "cache_bytes"))
    return [
        ("network", f"{network['target']}, built with {network['package']}: {sum(layers.values())} layers"),
        ("memory", f"engine file {engine}, constants {constants}, caches at the limits {cache}"),
        ("network layers", ", ".join(f"{kind} {count}" for kind, count in layers.items())),
        ("precisions", ", ".join(precisions)),
        ("network inputs", _alike((name, _tensor(tensor)) for name, tensor in network["inputs"].items())),
        ("network outputs", _alike((name, _tensor(tensor)) for name, tensor in network["outputs"].items())),
        ("aliases", _pairs(network["aliases"])),
        *(
            (f"profile {profile['name']}", _alike((name, _range(r)) for name, r in profile["shapes"].items()))
            for profile in network["profiles"]
        ),
    ]


def layer_lines(layers: Iterable[Mapping[str, Any]]) -> str:
    """A line a layer: its name and kind, what it reads and makes, and the module it comes from."""
    return "\n".join(map(_layer, layers))


def _layer(layer: Mapping[str, Any]) -> str:
    inputs = ", ".join("-" if tensor is None else _named(tensor) for tensor in layer["inputs"])
    outputs = ", ".join(map(_named, layer["outputs"]))
    module = (layer["origin"] or {}).get("module")
    head = f"{layer['name']}  {layer['kind']}  "
    return head + (f"{inputs} -> " if inputs else "-> ") + outputs + (f"  from {module}" if module else "")


def _named(tensor: Mapping[str, Any]) -> str:
    return f"{tensor['name']} {_tensor(tensor)}"


def _tensor(tensor: Mapping[str, Any]) -> str:
    return f"{tensor['dtype']}{_shape(tensor['shape'])}"


def _range(shapes: Mapping[str, list[int]]) -> str:
    """`[1,1]..[8,1]..[8,1]`: least, usual, largest; one shape if they are the same."""
    distinct = {_shape(shape) for shape in shapes.values()}
    return distinct.pop() if len(distinct) == 1 else "..".join(_shape(shapes[end]) for end in ("min", "opt", "max"))


def _shape(shape: Iterable[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _alike(items: Iterable[tuple[str, str]]) -> str:
    """`name text` of each; names with the same text together, the first of more than two standing for all."""
    groups: dict[str, list[str]] = {}
    for name, text in items:
        groups.setdefault(text, []).append(name)
    return ", ".join(f"{_names(names)} {text}" for text, names in groups.items())


def _names(names: list[str]) -> str:
    return " and ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more of"


def _pairs(aliases: Mapping[str, str]) -> str:
    first = next(iter(aliases.items()), None)
    if first is None:
        return "none"
    return f"{first[0]} is written over {first[1]}" + (f", and {len(aliases) - 1} more" if len(aliases) > 1 else "")
