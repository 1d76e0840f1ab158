"""Digests of files and folders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from compiler.progress import Advance

# Large enough that the hash, not the calls, takes the time; small enough to stay in a cache.
_CHUNK = 1 << 20


def sha256_file(path: Path, advance: Advance | None = None) -> str:
    """The sha256 of a file, in hexadecimal; `advance` counts its bytes. OSError if it cannot be read."""
    digest, buffer = hashlib.sha256(), bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(view):
            digest.update(view[:count])
            if advance:
                advance(count)
    return digest.hexdigest()


def sha256_files(paths: Sequence[Path], advance: Advance | None = None) -> str:
    """One sha256 for several files: of the lines `DIGEST  NAME` that sha256sum prints for them, sorted by name."""
    lines = [f"{sha256_file(path, advance)}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
