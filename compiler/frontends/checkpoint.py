"""A checkpoint, whatever tool wrote its files: a config and where its tensors are. No tensor is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from compiler.frontends.composed import SourceTensor
from compiler.frontends.json_file import read_object
from compiler.frontends.source_options import SourceOptions
from compiler.ir.frozen import EMPTY


@dataclass(frozen=True)
class StoredWeights:
    """The weights of a checkpoint, known from headers alone.

    Attributes:
        files: the files that hold them, relative to the checkpoint's folder.
        tensors: every tensor by the name that it has in the Hugging Face form of the model.
    """

    files: tuple[str, ...] = ()
    tensors: Mapping[str, SourceTensor] = EMPTY


class Checkpoint:
    """What a model is lifted from. Opening one reads its config; the headers of its weights are read when asked for.

    Attributes:
        path: what it was opened by: its folder, or its file.
        folder: the folder that the names of its files are relative to, and that holds its tokenizer.
        config: the content of the Hugging Face `config.json` of the model, whatever file it comes from.
        config_files: the files that it comes from, relative to the folder.
        tokenizer_file: a file of the tokenizers library that is to be taken as it is, if it is not for the other files
            of the folder to say what the tokenizer is.
        dummy_weights: whether to make weights up instead of looking for files.
        optional_weights: whether made-up weights include those that only some checkpoints of the family have.
        source: what the user says of the weights.
        notes: what was found odd but harmless, for the user.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        read_weights: Callable[[], StoredWeights] = StoredWeights,
        *,
        config_files: Sequence[str] = ("config.json",),
        tokenizer_file: Path | None = None,
        dummy_weights: bool = False,
        optional_weights: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        self.path = self.folder = folder
        self.config = config
        self.config_files = tuple(config_files)
        self.tokenizer_file = tokenizer_file
        self.dummy_weights = dummy_weights
        self.source = SourceOptions()
        self.notes = list(notes)
        self._read_weights = read_weights
        self.optional_weights = optional_weights

    @property
    def read_weights(self) -> Callable[[], StoredWeights]:
        """What reads the weights."""
        return self._read_weights

    def replace_weights(self, read_weights: Callable[[], StoredWeights]) -> None:
        """Take the weights from elsewhere; before they are asked for."""
        self._read_weights = read_weights

    @cached_property
    def weights(self) -> StoredWeights:
        """The files and tensors; CheckpointError if a file is missing or damaged."""
        return StoredWeights() if self.dummy_weights else self._read_weights()

    @property
    def config_name(self) -> str:
        """What messages call the files of its config."""
        return " and ".join(self.config_files)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of weights, in order; CheckpointError as said at `weights`."""
        return tuple(self.folder / name for name in self.weights.files)

    @property
    def tensors(self) -> Mapping[str, SourceTensor]:
        """Every tensor by its Hugging Face name; CheckpointError as said at `weights`."""
        return self.weights.tensors

    @property
    def tokenizer(self) -> Path:
        """The file of the tokenizer, or the folder that may hold one."""
        return self.tokenizer_file or self.folder

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The content of `generation_config.json`, empty if there is none; LlmcError if it cannot be read."""
        path = self.folder / "generation_config.json"
        return read_object(path) if path.exists() else {}
