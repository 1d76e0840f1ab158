"""The files of the ranks of a TensorRT-LLM checkpoint, and each of their tensors used once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.frontends.layouts.tensorrt_llm.config import RankConfig
from compiler.frontends.read_stored import same_values
from compiler.frontends.safetensors_file import read_safetensors
from compiler.store.stored_tensor import StoredTensor

RANK_FILE = re.compile(r"rank(\d+)\.safetensors")
_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(.+)")
# What older and newer versions call the same.
_RENAMED = {
    "transformer.embedding.vocab_embedding.weight": "transformer.vocab_embedding.weight",
    "transformer.embedding.position_embedding.weight": "transformer.position_embedding.weight",
}
# Follows from what is beside it: the inverse of the caches' scales.
_DERIVED = re.compile(r".*\.kv_cache_rcp_scaling_factor")


@dataclass
class Stage:
    """A run of layers: the tensors of the ranks that share them, by names that all ranks have in common.

    Attributes:
        ranks: the tensors of each rank.
        layers: how many layers there are.
        used: the names that were taken.
    """

    ranks: Sequence[Mapping[str, StoredTensor]]
    layers: int
    used: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self.ranks[0]

    def take(self, name: str) -> list[StoredTensor]:
        """A tensor as each of the ranks has it; CheckpointError if it is missing."""
        self.used.add(name)
        missing = [tensors for tensors in self.ranks if name not in tensors]
        if missing:
            file = next(iter(missing[0].values())).file
            raise CheckpointError(
                f"the tensor {name!r} is missing from {file}",
                hint="the file is damaged, or config.json belongs to another checkpoint",
            )
        return [tensors[name] for tensors in self.ranks]


def rank_files(folder: Path, config: RankConfig) -> tuple[str, ...]:
    """The files of all ranks; CheckpointError if one is missing, or there is one too many."""
    names = tuple(f"rank{rank}.safetensors" for rank in range(config.tp * config.pp))
    missing = [name for name in names if not (folder / name).is_file()]
    said = f"config.json says tp_size {config.tp} and pp_size {config.pp}"
    if missing:
        raise CheckpointError(
            f"{missing[0]} is missing from {folder}: {said}", hint="copy the files of all ranks, or correct config.json"
        )
    extra = sorted(path.name for path in folder.iterdir() if RANK_FILE.fullmatch(path.name) and path.name not in names)
    if extra:
        raise CheckpointError(
            f"{folder} holds {extra[0]}, but {said}",
            hint="the files belong to different checkpoints, or correct config.json",
        )
    return names


def read_stages(folder: Path, config: RankConfig, files: Sequence[str]) -> list[Stage]:
    """The tensors of all ranks, from the headers of their files.

    Raises:
        CheckpointError: if a file is damaged, or the ranks do not have the layers that the config says.
    """
    ranks = [_named(read_safetensors(folder / file, file)) for file in files]
    stages = []
    for first in range(0, len(ranks), config.tp):
        sharing = ranks[first : first + config.tp]
        names = [name for name in sharing[0] if name not in sharing[-1]]
        if names or any(tensors.keys() != sharing[0].keys() for tensors in sharing):
            other = next(tensors for tensors in sharing if tensors.keys() != sharing[0].keys())
            odd = next(iter(other.keys() ^ sharing[0].keys()))
            has, lacks = (other, sharing[0]) if odd in other else (sharing[0], other)
            raise CheckpointError(
                f"the tensor {odd!r} is in {has[odd].file}, but not in {next(iter(lacks.values())).file}",
                hint="the files belong to different checkpoints: give the files that belong together",
            )
        found = [int(match[1]) for name in sharing[0] if (match := _LAYER.fullmatch(name))]
        stages.append(Stage(sharing, max(found, default=-1) + 1))
    layers = sum(stage.layers for stage in stages)
    if layers != config.layers:
        raise CheckpointError(
            f"the files of {folder} hold {layers} layers; config.json says {config.layers} ('num_hidden_layers')",
            hint="the files and config.json belong to different checkpoints",
        )
    return stages


def check_all_used(stages: Sequence[Stage]) -> None:
    """CheckpointError, naming it, if a tensor was not taken."""
    for stage in stages:
        left = [name for name in stage.ranks[0] if name not in stage.used and not _DERIVED.fullmatch(name)]
        if left:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise CheckpointError(
                f"the tensor {left[0]!r} in {stage.ranks[0][left[0]].file}{more} has no place in the model that "
                "config.json describes",
                hint="a key of config.json is wrong, or the model is a variant that is not supported",
            )


def replica(parts: Sequence[StoredTensor], folder: Path) -> StoredTensor:
    """What all ranks hold alike; CheckpointError if they do not."""
    first = parts[0]
    for other in parts[1:]:
        if not same_values(first, other, folder):
            raise CheckpointError(
                f"the tensor {first.name!r} is another one in {other.file} than in {first.file}; "
                "ranks must have it alike",
                hint="the files belong to different checkpoints: give the files that belong together",
            )
    return first


def _named(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {_RENAMED.get(name, name): tensor for name, tensor in tensors.items()}
