"""Which pass runs now, for messages of what it calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_CURRENT: ContextVar[str | None] = ContextVar("running", default=None)


def running_pass() -> str:
    """How messages call the pass that a pipeline runs now: `the pass 'quant'`; `this pass` outside of a pipeline."""
    name = _CURRENT.get()
    return "this pass" if name is None else f"the pass {name!r}"


@contextmanager
def runs(name: str) -> Iterator[None]:
    """Make this the pass that runs."""
    token = _CURRENT.set(name)
    try:
        yield
    finally:
        _CURRENT.reset(token)
