"""What a pass tells the user: something that was asked for and not done, or done otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_CURRENT: ContextVar[list[str] | None] = ContextVar("notes", default=None)


def note(text: str) -> None:
    """Tell the user a sentence about what the pass that runs now does.

    `llmc compile` and `llmc opt` print it with the pass's spelling in front; in Python it is among the notes of the
    result. Outside a pipeline it is a warning.
    """
    notes = _CURRENT.get()
    if notes is None:
        warnings.warn(text, stacklevel=2)
    elif text not in notes:
        notes.append(text)


@contextmanager
def gathered_notes() -> Iterator[list[str]]:
    """What is noted inside, in order, each sentence once."""
    notes: list[str] = []
    token = _CURRENT.set(notes)
    try:
        yield notes
    finally:
        _CURRENT.reset(token)
