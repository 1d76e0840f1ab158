"""The folder of an exported checkpoint: written beside its place, and put there when it is complete."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compiler.errors import ExportError
from compiler.sizes import bytes_text
from llmc.version import __version__
from runtime.engine_dir.atomic_folder import PartialFolder, remove_abandoned
from runtime.engine_dir.manifest import is_engine

RECORD = "llmc_export.json"
"""What the folder says of how it was made; other programs pass it over."""

_FORMAT = "llmc export"
_ELSEWHERE = "choose another place: -o DIR"


def check_place(place: Path, source: Path | None) -> Path:
    """The absolute place of a checkpoint to be written, after making sure that writing it destroys nothing else.

    Args:
        place: the place. An earlier export that is there will be replaced.
        source: the folder that is exported, if it is one.

    Raises:
        ExportError: if something else is there, or the folder around it cannot be written.
    """
    place = place.expanduser().resolve()
    if source is not None and place == source.expanduser().resolve():
        raise ExportError(f"{place} is the model that is exported", hint=_ELSEWHERE)
    if place.exists() and not place.is_dir():
        raise ExportError(f"{place} is a file; a checkpoint is a folder", hint=_ELSEWHERE)
    if place.is_dir():
        _check_replaceable(place)
    if outer := next(filter(is_engine, place.parents), None):
        raise ExportError(f"{place} is inside the engine {outer}", hint=_ELSEWHERE)
    around = next(folder for folder in place.parents if folder.exists())
    if not around.is_dir() or not os.access(around, os.W_OK | os.X_OK):
        raise ExportError(f"cannot make the folder {place}: {around} is no folder to write in", hint=_ELSEWHERE)
    return place


def _check_replaceable(place: Path) -> None:
    present = {path.name for path in place.iterdir()}
    if not present:
        return
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        known = {RECORD, *map(str, record["files"])} if record["format"] == _FORMAT else set()
    except (OSError, ValueError, TypeError, KeyError):
        known = set()
    if not known:
        raise ExportError(f"{place} exists and was not written by llmc export; it is not overwritten", hint=_ELSEWHERE)
    foreign = sorted(present - known)
    if foreign:
        raise ExportError(
            f"{place} holds an exported checkpoint and also {', '.join(foreign[:3])}, which replacing it would delete",
            hint=f"move {'it' if len(foreign) == 1 else 'them'} away, or {_ELSEWHERE}",
        )


class ExportFolder:
    """A checkpoint under construction in `path`, a temporary folder beside its place."""

    def __init__(self, partial: PartialFolder) -> None:
        self.path = partial.path
        self._partial = partial

    def commit(self, record: dict[str, Any]) -> Sequence[str]:
        """Put the folder at its place; returns the names of its files.

        Args:
            record: what to note about how it was made.

        Raises:
            OSError: if the folder cannot be written.
        """
        files = sorted(path.name for path in self.path.iterdir())
        write_json(self.path / RECORD, {"format": _FORMAT, "llmc": __version__, **record, "files": files})
        self._partial.publish()
        return [*files, RECORD]


@contextmanager
def export_folder(place: Path, needed: int) -> Iterator[ExportFolder]:
    """A folder to write a checkpoint in. What is written is removed unless it is committed.

    Args:
        place: as `check_place` returned it.
        needed: about how many bytes the checkpoint will take.

    Raises:
        ExportError: if there is no space for it, or it cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(place)
        free = shutil.disk_usage(place.parent).free
        if free < needed:
            raise _no_space(place, needed, f"{place.parent} has {bytes_text(free)} free")
        partial = PartialFolder(place)
        try:
            yield ExportFolder(partial)
        finally:
            partial.close()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(place, needed, f"the disk of {place.parent} is full") from error
        raise ExportError(
            f"cannot write the checkpoint to {place}: {error.strerror or error}", hint=_ELSEWHERE
        ) from error


def _no_space(place: Path, needed: int, why: str) -> ExportError:
    return ExportError(
        f"the checkpoint needs {bytes_text(needed)} ({needed:,} bytes), but {why}",
        hint=f"free some space, or {_ELSEWHERE}; nothing is left of {place.name}",
    )


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as transformers does; OSError if that fails."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
