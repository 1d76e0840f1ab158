"""The digest that ties an engine to the checkpoint it was made from."""

from __future__ import annotations

from pathlib import Path

from compiler.errors import CheckpointError
from compiler.frontends import Checkpoint
from compiler.progress import Report
from llmc.progress import counter
from runtime.engine_dir.hashing import sha256_files


def source_digest(checkpoint: Checkpoint, progress: Report) -> str:
    """The sha256 of the files of its config and, unless they are dummies, the files of weights.

    Args:
        checkpoint: the checkpoint.
        progress: called with the bytes read so far and in total.

    Raises:
        CheckpointError: if a file cannot be read.
    """
    configs = [checkpoint.folder / name for name in checkpoint.config_files]
    paths: list[Path] = list(dict.fromkeys((*configs, *checkpoint.files)))
    try:
        return sha256_files(paths, counter(progress, sum(path.stat().st_size for path in paths)))
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or checkpoint.folder}: {error.strerror}") from None
