"""Checkpoints of MosaicML's Composer, in which llm-foundry saves runs: one file of torch with all of a run's state.

`state.model` holds the weights, whose names begin with `model.`, and `state.integrations.huggingface` the config.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint, StoredWeights
from compiler.frontends.layouts.registry import layout
from compiler.frontends.layouts.spellings import respelled, spell
from compiler.frontends.layouts.tokenizer_file import find_tokenizer
from compiler.frontends.torch_file import read_training_file
from compiler.store.stored_tensor import StoredTensor

_SECTION = ("state", "integrations", "huggingface")
_CONFIG = (*_SECTION, "model", "config", "content")
_WEIGHTS = ("state", "model")
_PREFIX = "model."
_HINT = "save the model with llm-foundry's convert_composer_to_hf.py, and give the folder that it writes"


def holds_composer(path: Path) -> bool:
    """Whether a path is a file of torch that says of itself what Composer says of models of transformers."""
    if path.suffix != ".pt" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            content = archive.read(name) if name else b""
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return False
    return all(key.encode() in content for key in _SECTION)


@layout("composer", holds_composer)
def open_composer(path: Path) -> Checkpoint:
    """Open the file; CheckpointError if it is damaged, carries code, or holds no config or no weights."""
    content = read_training_file(path, path.name)
    config, rename = respelled(_section(path, content, _CONFIG))
    tensors: dict[str, StoredTensor] = {}
    for name, value in _section(path, content, _WEIGHTS).items():
        if not isinstance(value, StoredTensor):
            raise CheckpointError(f"{path}: {'.'.join(_WEIGHTS)} holds {name!r}, which is no tensor", hint=_HINT)
        tensors[name.removeprefix(_PREFIX)] = value
    folder = path.parent
    tokenizer = find_tokenizer(folder)
    notes = [f"{path.name}: of the state of the training run only the model is read"]
    if tokenizer is None and _has_tokenizer(content):
        notes.append(f"the tokenizer within {path.name} is not read: put its tokenizer.json beside it")
    return Checkpoint(
        folder,
        config,
        lambda: StoredWeights((path.name,), spell(tensors, rename)),
        config_files=[path.name],
        tokenizer_file=tokenizer,
        notes=notes,
    )


def _section(path: Path, content: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    found: Any = content
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not found:
        raise CheckpointError(
            f"{path} has no {'.'.join(keys)}, as Composer saves models of transformers",
            hint=f"sharded checkpoints are not read: {_HINT}",
        )
    return found


def _has_tokenizer(content: Mapping[str, Any]) -> bool:
    found: Any = content
    for key in (*_SECTION, "tokenizer"):
        found = found.get(key) if isinstance(found, dict) else None
    return bool(found)
