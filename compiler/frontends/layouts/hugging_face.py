"""The Hugging Face layout: a folder with `config.json` and files of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint, StoredWeights
from compiler.frontends.json_file import read_object
from compiler.frontends.layouts.registry import HUGGING_FACE, layout
from compiler.frontends.layouts.spellings import respelled, spell
from compiler.frontends.safetensors_file import read_safetensors
from compiler.frontends.torch_file import read_torch_file
from compiler.frontends.weight_files import weight_files
from compiler.store.stored_tensor import StoredTensor

CONFIG = "config.json"


@layout(HUGGING_FACE, lambda path: (path / CONFIG).is_file())
def open_hugging_face(folder: Path) -> Checkpoint:
    """Open the folder; ConfigError if its `config.json` is no JSON object."""
    config, rename = respelled(read_object(folder / CONFIG))
    return Checkpoint(folder, config, lambda: _read_weights(folder, rename))


def _read_weights(folder: Path, rename: Callable[[str], str]) -> StoredWeights:
    """Every tensor, from the headers of the files.

    Raises:
        CheckpointError: if there are no files, one that an index names is missing, or one is damaged.
    """
    found = weight_files(folder)
    tensors = read_files(folder, found.names)
    for name, file in found.shards.items():
        if name not in tensors:
            raise CheckpointError(
                f"the index says that {file} holds the tensor {name!r}, but it does not",
                hint="the index and the files belong to different checkpoints: give the files that belong together",
            )
    return StoredWeights(found.names, spell(tensors, rename))


def read_files(folder: Path, names: tuple[str, ...]) -> Mapping[str, StoredTensor]:
    """The tensors of several files of one folder; CheckpointError if a file is damaged or two hold the same tensor."""
    tensors: dict[str, StoredTensor] = {}
    for file in names:
        path = folder / file
        found = read_safetensors(path, file) if path.suffix == ".safetensors" else read_torch_file(path, file)
        for name, tensor in found.items():
            if name in tensors:
                raise CheckpointError(f"the tensor {name!r} is in both {tensors[name].file} and {file}")
            tensors[name] = tensor
    return tensors
