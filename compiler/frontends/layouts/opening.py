"""Opening a checkpoint of any layout."""

from __future__ import annotations

from pathlib import Path

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.layouts.given_weights import follow
from compiler.frontends.layouts.registry import layout_of
from compiler.frontends.source_options import SourceOptions
from compiler.plugins import blamed


def is_checkpoint(path: Path) -> bool:
    """Whether there is a checkpoint at a path, of any layout that llmc reads."""
    return layout_of(path) is not None


def open_checkpoint(
    path: str | Path, *, dummy_weights: bool = False, source: SourceOptions | None = None
) -> Checkpoint:
    """Open the checkpoint at `path`.

    Args:
        path: a folder, or a file of a layout of one file.
        dummy_weights: whether to make weights up, so that only its config is needed.
        source: what the user says of its weights.

    Raises:
        CheckpointError: if there is nothing, or nothing that llmc reads, or some of its files are missing.
        ConfigError: if its config cannot be read, or not be said as a config of a family that llmc knows.
        PluginError: if a layout that is not llmc's own fails.
    """
    path = Path(path).expanduser()
    found = layout_of(path)
    if found is None and not path.is_dir():
        raise CheckpointError(f"there is no folder {str(path)!r}", hint="give the folder that holds config.json")
    if found is None:
        raise CheckpointError(
            f"{path} has no config.json",
            hint="give the folder of a checkpoint in the Hugging Face layout, or one of those in docs/checkpoints.md",
        )
    with blamed(found.open, f"what opens the layout {found.name!r}"):
        checkpoint = found.open(path)
    checkpoint.path, checkpoint.dummy_weights = path, dummy_weights
    if source is not None:
        follow(source, checkpoint, found.name)
    return checkpoint
