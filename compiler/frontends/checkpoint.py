"""Opening a checkpoint in the Hugging Face layout: its config and where its tensors are. No tensor is read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from compiler.errors import CheckpointError
from compiler.frontends.json_file import read_object
from compiler.frontends.safetensors_file import read_safetensors
from compiler.frontends.torch_file import read_torch_file
from compiler.frontends.weight_files import WeightFiles, weight_files
from compiler.store.stored_tensor import StoredTensor


class Checkpoint:
    """A folder with `config.json` and, unless weights are dummies, files of weights.

    Attributes:
        folder: the folder.
        config: the content of `config.json`.
        dummy_weights: whether to make weights up instead of looking for files.
        optional_weights: whether made-up weights include those that only some checkpoints of the family have.
        notes: what lifting found odd but harmless, for the user.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], *, dummy_weights: bool = False, optional_weights: bool = False
    ) -> None:
        self.folder = folder
        self.config = config
        self.dummy_weights = dummy_weights
        self.optional_weights = optional_weights
        self.notes: list[str] = []

    @cached_property
    def _weight_files(self) -> WeightFiles:
        return WeightFiles(()) if self.dummy_weights else weight_files(self.folder)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The files of weights, in order; CheckpointError if there are none, or one that an index names is missing."""
        return tuple(self.folder / name for name in self._weight_files.names)

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor by name, from the headers of the files; CheckpointError if a file is damaged."""
        tensors: dict[str, StoredTensor] = {}
        for path in self.files:
            file = path.relative_to(self.folder).as_posix()
            found = read_safetensors(path, file) if path.suffix == ".safetensors" else read_torch_file(path, file)
            for name, tensor in found.items():
                if name in tensors:
                    raise CheckpointError(f"the tensor {name!r} is in both {tensors[name].file} and {file}")
                tensors[name] = tensor
        for name, file in self._weight_files.shards.items():
            if name not in tensors:
                raise CheckpointError(
                    f"the index says that {file} holds the tensor {name!r}, but it does not",
                    hint="the index and the files belong to different checkpoints: give the files that belong together",
                )
        return tensors

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The content of `generation_config.json`, empty if there is none; LlmcError if it cannot be read."""
        path = self.folder / "generation_config.json"
        return read_object(path) if path.exists() else {}


def open_checkpoint(folder: str | Path, *, dummy_weights: bool = False) -> Checkpoint:
    """Open the checkpoint in `folder`; with `dummy_weights` only its `config.json` is needed.

    Raises:
        CheckpointError: if there is no such folder, or no `config.json` in it that can be read.
        ConfigError: if `config.json` is no JSON object.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {str(folder)!r}", hint="give the folder that holds config.json")
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no config.json", hint="give the folder of a checkpoint in the Hugging Face layout"
        )
    return Checkpoint(folder, read_object(path), dummy_weights=dummy_weights)
