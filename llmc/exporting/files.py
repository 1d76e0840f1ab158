"""What a checkpoint has besides weights and `config.json`: the tokenizer, the generation config, licences, code."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from compiler.frontends.file_kinds import is_lfs_pointer
from llmc.compiling import sentencepiece_model
from llmc.exporting.folder import write_json
from runtime.engine_dir.manifest import Manifest
from runtime.generation.chat import TEMPLATE_FILES

GENERATION = "generation_config.json"
_VOCABULARIES = ("tokenizer.json", *sentencepiece_model.FILES, "vocab.json", "vocab.txt")
_TOKENIZER = (
    *_VOCABULARIES,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    *TEMPLATE_FILES,
)
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")


def copy_files(source: Path, folder: Path, config: Mapping[str, Any], note: Callable[[str], None]) -> None:
    """Copy the files of a checkpoint, or an engine, that say nothing of weights.

    Args:
        source: the folder of the checkpoint or engine.
        folder: where to.
        config: the checkpoint's config.
        note: called with a sentence where something is missing.

    Raises:
        OSError: if a file cannot be read or written.
    """
    if not any((source / name).is_file() for name in _VOCABULARIES):
        note(f"{source.name} has no tokenizer, and so has the exported checkpoint none")
    for path in _wanted(source, config):
        if is_lfs_pointer(path):
            note(f"{path.name} is a Git LFS pointer, not the file itself, and was left out")
        elif not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def write_generation_config(manifest: Manifest, folder: Path) -> None:
    """Write what an engine knows of the checkpoint's `generation_config.json`; OSError if that fails."""
    tokens = manifest.tokens
    ends: Any = tokens.eos[0] if len(tokens.eos) == 1 else list(tokens.eos) or None
    ids = {"bos_token_id": tokens.bos, "eos_token_id": ends, "pad_token_id": tokens.pad}
    known = {name: value for name, value in ids.items() if value is not None}
    if known or manifest.generation:
        write_json(folder / GENERATION, {**manifest.generation, **known})


def _wanted(source: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    names = [*_TOKENIZER, GENERATION]
    patterns = [*_LICENCES, *(["*.py"] if config.get("auto_map") else [])]
    yield from (path for name in names if (path := source / name).is_file())
    yield from (path for pattern in patterns for path in sorted(source.glob(pattern)) if path.is_file())
