"""Writing the tensors of a checkpoint into safetensors files, one after the other, and the index of several files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from compiler.exporters.model import ExportedTensor
from compiler.exporters.plan import ExportPlan
from compiler.ir.constants import stream_constants
from compiler.progress import Report
from compiler.store.safetensors_writer import SafetensorsWriter

_ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_METADATA = {"format": "pt"}  # transformers asks for it


def shards_of(tensors: Sequence[ExportedTensor], most: int) -> Mapping[str, Sequence[ExportedTensor]]:
    """The tensors of each file, by its name: as many as fit, in order. A tensor that does not fit has its own file.

    Args:
        tensors: all tensors.
        most: how many bytes of tensors a file may hold.
    """
    shards: list[list[ExportedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.type.nbytes > most:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.type.nbytes
    if len(shards) == 1:
        return {_ONE: shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, 1)}


def write_shards(plan: ExportPlan, folder: Path, most: int, progress: Report | None = None) -> tuple[str, ...]:
    """Write the tensors of a plan; returns the names of the files.

    Each value of the graph is computed once, in the order in which what it is made of lies in its files.

    Args:
        plan: what to write.
        folder: where.
        most: how many bytes of tensors a file may hold.
        progress: called with the bytes written so far and in total.

    Raises:
        CheckpointError: if the files that the weights are read from cannot be read.
        OSError: if the folder cannot be written.
    """
    shards = shards_of(plan.tensors, most)
    uses: dict[str, list[tuple[SafetensorsWriter, ExportedTensor]]] = {}
    with ExitStack() as stack:
        for file, tensors in shards.items():
            types = {tensor.name: tensor.type for tensor in tensors}
            writer = stack.enter_context(SafetensorsWriter(folder / file, types, _METADATA))
            for tensor in tensors:
                uses.setdefault(tensor.value.name, []).append((writer, tensor))
        total, done = plan.nbytes, 0
        for value, data in stream_constants(plan.graph):
            for writer, tensor in uses[value.name]:
                encoded = data if tensor.encode is None else tensor.encode(data)
                writer.write(tensor.name, encoded.contiguous())
                done += tensor.type.nbytes
                if progress:
                    progress(done, total)
    if len(shards) > 1:
        places = {tensor.name: file for file, tensors in shards.items() for tensor in tensors}
        index = {"metadata": {"total_size": plan.nbytes}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return (*shards, INDEX)
    return tuple(shards)
