"""Checkpoints of TensorRT-LLM: `config.json` with an `architecture`, and a file of weights for each rank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint, StoredWeights
from compiler.frontends.json_file import read_object
from compiler.frontends.layouts.registry import layout
from compiler.frontends.layouts.tensorrt_llm.config import Translated, translated
from compiler.frontends.layouts.tensorrt_llm.families import FAMILIES
from compiler.frontends.layouts.tensorrt_llm.linears import Forms
from compiler.frontends.layouts.tensorrt_llm.merging import Merging
from compiler.frontends.layouts.tensorrt_llm.ranks import rank_files, read_stages

_CONFIG = "config.json"
_ENGINE = ("pretrained_config", "build_config")


def _matches(path: Path) -> bool:
    content = _content(path)
    own = "architecture" in content and "architectures" not in content
    return own or all(key in content for key in _ENGINE)


def _content(path: Path) -> Mapping[str, Any]:
    """What `config.json` holds, if it is there and is an object."""
    try:
        found = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@layout("tensorrt-llm", _matches)
def open_tensorrt_llm(folder: Path) -> Checkpoint:
    """Open the folder.

    Raises:
        CheckpointError: if it holds engines, which are no checkpoint.
        ConfigError: if its config describes a model, or a quantization, that is not supported.
    """
    content = read_object(folder / _CONFIG)
    if all(key in content for key in _ENGINE):
        raise CheckpointError(
            f"{folder} holds engines of TensorRT-LLM, not a checkpoint",
            hint="give the checkpoint that they were built from: the folder with rank0.safetensors, or the original",
        )
    found = translated(content)
    checkpoint = Checkpoint(folder, found.config, lambda: _read_weights(checkpoint, found), notes=found.notes)
    return checkpoint


def _read_weights(checkpoint: Checkpoint, translated_: Translated) -> StoredWeights:
    """Every tensor, from the headers of the files of the ranks.

    Raises:
        CheckpointError: if a file is missing or damaged, or the ranks do not belong together.
    """
    folder, config = checkpoint.folder, translated_.ranks
    files = rank_files(folder, config)
    stages = read_stages(folder, config, files)
    said = checkpoint.source.weights_format
    gpu = None if said is None else said.options.get("gpu")
    forms = Forms(folder, config.algorithm, gpu, checkpoint.notes)
    family = str(checkpoint.config["model_type"])
    merging = Merging(folder, config, FAMILIES[family], forms)
    return StoredWeights(files, merging.merged(stages))
