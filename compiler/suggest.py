"""Suggestions for misspelt names and paths."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

# Names of files have endings in common; a name that was meant has more.
_ALIKE = 0.75
_ROUGHLY = 0.6


def did_you_mean(name: str, known: Iterable[str], *, alike: float = _ROUGHLY) -> str:
    """`"; did you mean 'x'?"` for the nearest known name, or an empty string if none is `alike`, from 0 to 1.

    Whether letters are capital makes no difference.
    """
    nearest = _nearest(name, known, alike)
    return f"; did you mean {nearest!r}?" if nearest else ""


def did_you_mean_path(path: str | os.PathLike[str], suitable: Callable[[Path], bool] = Path.exists) -> str:
    """`"; did you mean 'models/x'?"` for a path that does not exist, or an empty string.

    Each name within the path that does not exist is taken for a misspelling of its nearest neighbour.

    Args:
        path: the path.
        suitable: whether a path could have been meant, such as `Path.is_dir`.
    """
    given = Path(path)
    found = Path(given.anchor)
    for name in given.parts[1:] if given.anchor else given.parts:
        if not (found / name).exists():
            nearest = _nearest(name, names_in(found), _ALIKE)
            if nearest is None:
                return ""
            name = nearest
        found /= name
    return f"; did you mean {str(found)!r}?" if found.parts and suitable(found) else ""


def _nearest(name: str, known: Iterable[str], cutoff: float) -> str | None:
    spellings = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), spellings, n=1, cutoff=cutoff)
    return spellings[close[0]] if close else None


def names_in(folder: Path) -> list[str]:
    """The names in a folder that are not hidden; none if it cannot be read."""
    try:
        return [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    except OSError:
        return []


def folders_with(folder: Path, file: str) -> list[Path]:
    """The folders within a folder that hold a file of that name."""
    return [folder / name for name in names_in(folder) if (folder / name / file).is_file()]
