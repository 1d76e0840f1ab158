"""What the files of a checkpoint are called from its folder."""

from __future__ import annotations

from pathlib import Path


def named_from(folder: Path, path: Path) -> str:
    """A file's name from a folder, if it lies in it, or else its absolute path."""
    whole = path.resolve()
    inside = whole.is_relative_to(folder.resolve())
    return (whole.relative_to(folder.resolve()) if inside else whole).as_posix()
