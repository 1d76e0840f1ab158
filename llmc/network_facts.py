"""The facts about a TensorRT network, from its record: TensorRT need not be installed."""

from __future__ import annotations

import json
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from compiler.trt.record import LayerRecord, NetworkRecord, TensorRecord, read_record
from runtime.manifest import Manifest

_BITS = {
    **dict.fromkeys(("INT64",), 64),
    **dict.fromkeys(("FLOAT", "INT32"), 32),
    **dict.fromkeys(("HALF", "BF16"), 16),
    **dict.fromkeys(("FP8", "INT8", "UINT8", "BOOL", "E8M0"), 8),
    **dict.fromkeys(("INT4", "FP4"), 4),
}


def network_target(manifest: Manifest) -> str | None:
    """The first target of an engine that has a network record; None if there is none."""
    return next((name for name, ranks in manifest.targets.items() if "network" in ranks[0]), None)


def network_facts(folder: Path, manifest: Manifest, *, layers: bool = False) -> dict[str, Any] | None:
    """The facts about the network of an engine's first rank; None if it has none. The keys are in docs/cli.md.

    Args:
        folder: the engine directory.
        manifest: its manifest.
        layers: whether to list every layer, too.

    Raises:
        EngineError: if the record cannot be read.
    """
    target = network_target(manifest)
    if target is None:
        return None
    files = manifest.targets[target][0]
    record = read_record(folder / files["network"])
    facts = {
        "target": target,
        "name": record.name,
        "package": record.package,
        "engine_bytes": manifest.files[files["engine"]].bytes,
        "layers": dict(Counter(layer.kind for layer in record.layers).most_common()),
        "precisions": _precisions(record),
        "constant_bytes": sum(place.nbytes for place in set(record.constants.values())),
        "inputs": {name: _tensor(record.tensors[name]) for name in record.inputs},
        "outputs": {name: _tensor(record.tensors[name]) for name in record.outputs},
        "aliases": dict(record.aliases),
        "profiles": _profiles(record),
        "cache_bytes": sum(_most_bytes(record, name) for name in set(record.aliases.values())),
    }
    return facts | ({"layer_list": [_layer(layer, record) for layer in record.layers]} if layers else {})


def _precisions(record: NetworkRecord) -> dict[str, dict[str, int]]:
    """For each element type the tensors of it, and the bytes of the constants of it, each place counted once."""
    tensors = Counter(tensor.dtype for tensor in record.tensors.values())
    outputs = {layer.name: layer.outputs[0] for layer in record.layers if layer.name in record.constants}
    places = {record.constants[name]: record.tensors[output].dtype for name, output in outputs.items()}
    weights: Counter[str] = Counter()
    for place, dtype in places.items():
        weights[dtype] += place.nbytes
    return {dtype: {"tensors": count, "constant_bytes": weights[dtype]} for dtype, count in tensors.most_common()}


def _tensor(tensor: TensorRecord) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "shape": list(tensor.shape)}


def _profiles(record: NetworkRecord) -> list[dict[str, Any]]:
    return [
        {
            "name": profile.name,
            "shapes": {
                name: dict(zip(("min", "opt", "max"), map(list, shapes), strict=True))
                for name, shapes in profile.shapes.items()
            },
        }
        for profile in record.profiles
    ]


def _most_bytes(record: NetworkRecord, name: str) -> int:
    """The bytes of an input at the largest shape that a profile allows."""
    tensor = record.tensors[name]
    shapes = [profile.shapes[name][2] for profile in record.profiles if name in profile.shapes] or [tensor.shape]
    return max(map(prod, shapes)) * _BITS[tensor.dtype] // 8


def _layer(layer: LayerRecord, record: NetworkRecord) -> dict[str, Any]:
    def named(name: str) -> dict[str, Any]:
        return {"name": name, **_tensor(record.tensors[name])}

    return {
        "name": layer.name,
        "kind": layer.kind,
        "inputs": [None if name is None else named(name) for name in layer.inputs],
        "outputs": [named(name) for name in layer.outputs],
        "origin": _origin(layer.metadata),
    }


def _origin(metadata: str) -> dict[str, Any] | None:
    """The origin that the emitter noted; None if it noted none."""
    try:
        content = json.loads(metadata)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
