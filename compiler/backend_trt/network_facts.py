"""The facts about a network of TensorRT, from its record: TensorRT need not be installed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from compiler.ir.cache_layout import LINEAR
from compiler.ir.step import LOGITS, TOKEN_IDS, dim_sizes
from compiler.trt_network.record import LayerRecord, NetworkRecord, TensorRecord, Weight


def network_facts(record: NetworkRecord, *, layers: bool = False) -> dict[str, Any]:
    """The facts about a network; the keys are in docs/cli.md.

    Args:
        record: its record.
        layers: whether to list every layer, too.
    """
    outputs = {source: output for output, source in record.caches.items()}
    step = [name for name in record.inputs if name not in outputs and name not in record.weights]
    facts = {
        "sizes": _sizes(record),
        "layers": dict(Counter(layer.kind for layer in record.layers).most_common()),
        "precisions": _precisions(record),
        "weights": {"inputs": len(record.weights), "bytes": sum(_weights(record).values())},
        "constants": {"layers": len(record.constants), "bytes": sum(_constants(record).values())},
        "cache_bytes": sum(_most_bytes(record, name) for name in outputs),
        "inputs": {name: _tensor(record.tensors[name]) for name in step},
        "caches": {name: {**_tensor(record.tensors[name]), "output": out} for name, out in outputs.items()},
        "outputs": {n: _tensor(record.tensors[n]) for n in record.outputs if n not in record.caches},
        "profiles": _profiles(record),
    }
    return facts | ({"layer_list": [_layer(layer, record) for layer in record.layers]} if layers else {})


def _sizes(record: NetworkRecord) -> dict[str, int]:
    """The rows, the tokens and the wanted positions of each, and the slots of the caches; -1 for what varies."""
    shapes = {name: record.tensors[name].shape for name in (TOKEN_IDS, LOGITS) if name in record.tensors}
    caches = [record.tensors[name].shape for name in record.caches.values()]
    ids, logits = shapes.get(TOKEN_IDS, ()), shapes.get(LOGITS, ())
    batch, length = ids if len(ids) == 2 else (None, None)
    return dim_sizes(
        batch=batch,
        length=length,
        wanted=logits[1] if len(logits) == 3 else None,
        capacity=caches[0][LINEAR.POSITION] if caches and len(caches[0]) == LINEAR.RANK else None,
    )


def _weights(record: NetworkRecord) -> dict[tuple[str, Weight], int]:
    """The bytes of every place that inputs are read from, with its element type."""
    return {(record.tensors[name].dtype, place): record.tensors[name].nbytes for name, place in record.weights.items()}


def _constants(record: NetworkRecord) -> dict[tuple[str, Weight | str], int]:
    """The bytes of every constant, with its element type; one place counts once."""
    layers = {layer.name: record.tensors[layer.outputs[0]] for layer in record.layers if layer.kind == "CONSTANT"}
    return {
        (layers[name].dtype, name if isinstance(place, bytes) else place): layers[name].nbytes
        for name, place in record.constants.items()
    }


def _precisions(record: NetworkRecord) -> dict[str, dict[str, int]]:
    """For each element type the tensors of it, and the bytes of weights and constants of it."""
    sums: list[Counter[str]] = []
    for places in (_weights(record), _constants(record)):
        sums.append(Counter())
        for (dtype, _), size in places.items():
            sums[-1][dtype] += size
    tensors = Counter(tensor.dtype for tensor in record.tensors.values())
    return {
        dtype: {"tensors": count, "weight_bytes": sums[0][dtype], "constant_bytes": sums[1][dtype]}
        for dtype, count in tensors.most_common()
    }


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
    return max(replace(tensor, shape=shape).nbytes for shape in shapes)


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
