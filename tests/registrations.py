"""Registering things in tests, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from compiler.plugins import all_or_nothing, loading


class _UndoError(Exception):
    """Ends a test's registrations."""


@contextmanager
def forgotten() -> Iterator[None]:
    """What is registered inside (ops, passes, rules, families ...), and what was installed, is forgotten at the end."""
    state = loading._state
    loading._state = loading._State(seen_path=list(state.seen_path), offers=dict(state.offers))
    try:
        with suppress(_UndoError), all_or_nothing():
            yield
            raise _UndoError
    finally:
        loading._state = state
