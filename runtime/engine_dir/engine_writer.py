"""Writing an engine directory: whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from compiler.errors import EngineError, LlmcError
from compiler.progress import Advance
from compiler.sizes import bytes_text
from runtime.engine_dir.atomic_folder import PartialFolder, remove_abandoned
from runtime.engine_dir.hashing import sha256_file
from runtime.engine_dir.manifest import MANIFEST, FileEntry, Manifest, is_engine, read_manifest

_ELSEWHERE = "choose another place: -o DIR"


def check_place(place: Path, *, make_folder: bool = True) -> Path:
    """The absolute place of an engine to be written, after making sure that writing it destroys nothing else.

    Args:
        place: the place.
        make_folder: whether to make the folder around it, if it is missing.

    Raises:
        EngineError: if something other than an engine is there, or the folder around it cannot be made.
    """
    place = place.expanduser().resolve()
    if place.exists() and not place.is_dir():
        raise EngineError(f"{place} is a file; an engine is a folder", hint=_ELSEWHERE)
    if place.is_dir():
        _check_replaceable(place)
    if outer := next(filter(is_engine, place.parents), None):
        raise EngineError(f"{place} is inside the engine {outer}", hint=_ELSEWHERE)
    if not make_folder:
        around = next(folder for folder in place.parents if folder.exists())
        if not around.is_dir() or not os.access(around, os.W_OK | os.X_OK):
            raise EngineError(f"cannot make the folder {place}: {around} is no folder to write in", hint=_ELSEWHERE)
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"cannot make the folder {place.parent}: {error.strerror}", hint=_ELSEWHERE) from None
    return place


def _check_replaceable(place: Path) -> None:
    present = {path.name for path in place.iterdir()}
    if not present:
        return
    if not is_engine(place):
        raise EngineError(f"{place} exists and is not an llmc engine; it is not overwritten", hint=_ELSEWHERE)
    try:
        known = {MANIFEST, *read_manifest(place, verify=False).files}
    except EngineError:
        return  # of another version, or damaged: llmc's all the same
    foreign = sorted(present - known)
    if foreign:
        raise EngineError(
            f"{place} holds an engine and also {', '.join(foreign[:3])}, which replacing the engine would delete",
            hint=f"move {'it' if len(foreign) == 1 else 'them'} away, or {_ELSEWHERE}",
        )


class EngineWriter:
    """An engine under construction in `folder`, a temporary folder beside its place.

    Attributes:
        place: where the engine will be.
        folder: where to write its files.
    """

    def __init__(self, place: Path, partial: PartialFolder) -> None:
        self.place = place
        self.partial = partial
        self.folder = partial.path

    def commit(self, manifest: Manifest, advance: Advance | None = None) -> Manifest:
        """Put the engine at its place.

        Args:
            manifest: everything but the list of files.
            advance: called with the bytes hashed since the last call.

        Returns:
            The manifest with the list of files.

        Raises:
            OSError: if the folder cannot be written.
        """
        files = {
            path.name: FileEntry(path.stat().st_size, sha256_file(path, advance))
            for path in sorted(self.folder.iterdir())
        }
        complete = replace(manifest, files=files)
        complete.write(self.folder)
        self.partial.publish()
        return complete


@contextmanager
def engine_writer(place: Path, needed: int) -> Iterator[EngineWriter]:
    """A writer for an engine at `place`. What is written is removed unless it is committed.

    Args:
        place: as `check_place` returned it.
        needed: about how many bytes the engine will take.

    Raises:
        EngineError: if there is no space for it, or it cannot be written.
    """
    remove_abandoned(place)
    check_disk_space(place.parent, needed)
    try:
        partial = PartialFolder(place)
        try:
            yield EngineWriter(place, partial)
        finally:
            partial.close()
    except (OSError, LlmcError) as error:
        explained = _explained(error, place, needed)
        if explained is None:
            raise
        raise explained from error


def check_disk_space(folder: Path, needed: int) -> None:
    """EngineError if a folder has no space for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EngineError(
            f"the engine needs {bytes_text(needed)} ({needed:,} bytes), but {folder} has {bytes_text(free)} free",
            hint=f"free some space, or {_ELSEWHERE}",
        )


def _explained(error: OSError | LlmcError, place: Path, needed: int) -> EngineError | None:
    """What a failed write means for the user; None for an error that says so itself."""
    cause = _os_error(error)
    if cause is not None and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return EngineError(
            f"the disk is full: {place.parent} has no space for the engine, "
            f"which needs {bytes_text(needed)} ({needed:,} bytes)",
            hint=f"free some space, or {_ELSEWHERE}; nothing is left of the engine",
        )
    if not isinstance(error, OSError):
        return None
    return EngineError(f"cannot write the engine to {place}: {error.strerror or error}", hint=_ELSEWHERE)


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError that `error` is, or that led to it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
