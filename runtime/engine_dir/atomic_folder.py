"""Folders under construction: named after their final place, locked while their process lives."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import time
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# Where a file system has no locks, a partial folder is taken for abandoned after a day.
_ABANDONED_AFTER = 24 * 3600.0


class PartialFolder:
    """A new folder beside `place`, to be renamed to it, and locked: the lock ends with the process, however it ends.

    Attributes:
        path: the folder.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.path = place.with_name(f".{place.name}.partial-{os.getpid()}-{time.monotonic_ns():x}")
        while True:
            self.path.mkdir()
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            except OSError:
                return
            if self.path.exists():
                return
            os.close(self._lock)  # another process cleaned up between the two calls

    def publish(self) -> None:
        """Put the folder at its place, in one step; what was there is removed afterwards. OSError if that fails."""
        sync_tree(self.path)
        if not self.place.exists():
            self.path.rename(self.place)
        elif _exchange(self.path, self.place):
            remove_engine(self.path)
        else:
            aside = self.path.with_name(self.path.name.replace(".partial-", ".replaced-"))
            self.place.rename(aside)
            try:
                self.path.rename(self.place)
            except OSError:
                aside.rename(self.place)
                raise
            remove_engine(aside)
        _sync(self.place.parent)

    def close(self) -> None:
        """Remove the folder, if it was not published, and release the lock."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def remove_abandoned(place: Path) -> list[Path]:
    """Remove what dead processes left beside `place`; returns it."""
    removed = []
    for kind in ("partial", "replaced"):
        for path in place.parent.glob(f".{_literal(place.name)}.{kind}-*"):
            if path.is_dir() and _is_abandoned(path):
                remove_engine(path)
                removed.append(path)
    return removed


def remove_engine(folder: Path) -> None:
    """Remove a folder, its manifest first, so that no rest of it looks like an engine."""
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(handle).st_mtime > _ABANDONED_AFTER
    finally:
        os.close(handle)
    return True


def sync_tree(folder: Path) -> None:
    """Wait until every file of the folder is on the disk; OSError if one cannot be written."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths in one step, so that neither is ever missing; False where the system cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(swap(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)


def _literal(name: str) -> str:
    """The name as a glob pattern that matches only itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
