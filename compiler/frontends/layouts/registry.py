"""Which tool's layout the files of a checkpoint have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint
from compiler.plugins import Registry, blamed, load_installed


class Layout(NamedTuple):
    """The way in which a tool lays a checkpoint out in files.

    Attributes:
        name: its name, such as `gpt-neox`.
        matches: whether a path, a file or a folder that exists, looks like such a checkpoint; it must be quick, and
            must not raise for what it does not know.
        open: opens a path that matches. It reads configs and looks for files; `Checkpoint.weights` reads headers.
    """

    name: str
    matches: Callable[[Path], bool]
    open: Callable[[Path], Checkpoint]


LAYOUTS = Registry[Layout]("the layout {!r} is known already", CheckpointError)
"""The layouts, by their name. The first that matches is taken, and the Hugging Face layout only if no other does."""

Opener = Callable[[Path], Checkpoint]


def layout(name: str, matches: Callable[[Path], bool]) -> Callable[[Opener], Opener]:
    """Decorator: the function opens checkpoints of a layout, which is told by `matches`. See `Layout`."""

    def register(open_: Opener) -> Opener:
        LAYOUTS.add(name, Layout(name, matches, open_), open_)
        return open_

    return register


HUGGING_FACE = "hugging-face"


def layout_of(path: Path) -> Layout | None:
    """The layout of the checkpoint at a path; None if there is no checkpoint that llmc knows, or none it may read.

    Raises:
        PluginError: if what tells a layout that is not llmc's own fails.
    """
    load_installed()
    if not path.exists():
        return None
    others = (found for name, found in LAYOUTS.items() if name != HUGGING_FACE)
    return next((found for found in (*others, LAYOUTS[HUGGING_FACE]) if _matches(found, path)), None)


def _matches(found: Layout, path: Path) -> bool:
    try:
        with blamed(found.matches, f"what tells the layout {found.name!r}"):
            return found.matches(path)
    except OSError:  # a folder that may not be listed
        return False
