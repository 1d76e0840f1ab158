"""Files that llmc can make again, kept to save time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from compiler.atomic_file import replacing


def cache_folder() -> Path:
    """Where they are: `llmc` in `$XDG_CACHE_HOME`, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llmc"


class FileCache:
    """Files under keys, the most recently used ones up to a number of bytes. Failing is no error: only time is lost."""

    def __init__(self, name: str, limit: int) -> None:
        """A cache in a folder of its own.

        Args:
            name: the folder's name.
            limit: how many bytes the files may take together.
        """
        self.folder = cache_folder() / name
        self.limit = limit

    def get(self, key: str, place: Path) -> bool:
        """Copy the file of a key to `place`; returns whether there is one."""
        kept = self.folder / key
        try:
            shutil.copyfile(kept, place)
            os.utime(kept)
        except OSError:
            return False
        return True

    def put(self, key: str, file: Path) -> None:
        """Keep a copy of a file, and drop those that were not used for the longest time if there is no room."""
        try:
            if file.stat().st_size > self.limit:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / key) as temporary:
                shutil.copyfile(file, temporary)
            self._make_room()
        except OSError:
            return

    def _make_room(self) -> None:
        kept = sorted(
            ((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(self.folder)),
            reverse=True,
        )
        total = 0
        for _, size, path in kept:
            total += size
            if total > self.limit:
                Path(path).unlink(missing_ok=True)
