"""Writing files whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """A path to write to, which takes its place when the block ends well; nothing is left of it otherwise.

    Raises:
        OSError: if it cannot be put there.
    """
    temporary = place.with_name(f".{place.name}.{uuid4().hex}")  # beside it: renaming is atomic within a file system
    try:
        yield temporary
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
