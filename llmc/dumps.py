"""Folders of graphs, such as `--dump-ir` writes: where they may be, and how two of them are compared."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from compiler.errors import PassError
from compiler.frontends import is_checkpoint
from runtime.engine_dir.manifest import is_engine

_OTHER = "give --dump-ir another folder"


def dump_folder(dump_ir: str | Path | None, place: Path | None = None) -> Path | None:
    """The absolute folder for dumps, after making sure that it can be written and is nothing else; None for None.

    Args:
        dump_ir: the folder as given.
        place: where an engine will be written.

    Raises:
        PassError: if it is or lies in a file, a checkpoint or an engine, or cannot be written.
    """
    if dump_ir is None:
        return None
    folder = Path(dump_ir).expanduser().resolve()
    for outer in (folder, *folder.parents):
        if outer == place or is_engine(outer):
            raise PassError(f"the dumps cannot go to {folder}, which is inside the engine {outer}", hint=_OTHER)
    if is_checkpoint(folder):
        raise PassError(f"the dumps cannot go to {folder}, which is a checkpoint", hint=_OTHER)
    existing = next(outer for outer in (folder, *folder.parents) if outer.exists())
    if not existing.is_dir():
        raise PassError(
            f"the dumps cannot go to {folder}: {'it' if existing == folder else existing} is a file",
            hint="give --dump-ir a folder",
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PassError(f"the dumps cannot go to {folder}: {existing} cannot be written to", hint=_OTHER)
    return folder


def paired(before: Sequence[Path], after: Sequence[Path]) -> list[tuple[Path | None, Path | None]]:
    """The graphs of two folders that the same pass left, whatever its number; what has no partner is paired with None.

    A pass that ran several times has as many partners, in order.
    """
    ours, theirs = _keyed(before), _keyed(after)
    alone = [(None, path) for key, path in theirs.items() if key not in ours]
    return [*((path, theirs.get(key)) for key, path in ours.items()), *alone]


def _keyed(graphs: Iterable[Path]) -> dict[tuple[str, int], Path]:
    """The graphs by the name of the pass and how many of that name came before."""
    seen: Counter[str] = Counter()
    keyed = {}
    for path in graphs:
        number, _, name = path.stem.partition("-")
        name = name if number.isdigit() and name else path.stem
        keyed[name, seen[name]] = path
        seen[name] += 1
    return keyed
