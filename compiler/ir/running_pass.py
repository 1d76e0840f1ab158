"""Which pass a pipeline runs now, so that what rewrites a graph need not be told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_RUNNING: ContextVar[str] = ContextVar("running_pass", default="")


def running_pass() -> str:
    """The name of the pass that runs now; empty outside a pipeline."""
    return _RUNNING.get()


def what_runs() -> str:
    """How messages call the pass that runs now: `the pass 'quant'`; `this pass` outside a pipeline."""
    name = running_pass()
    return f"the pass {name!r}" if name else "this pass"


@contextmanager
def running(name: str) -> Iterator[None]:
    """What is rewritten inside is the work of the pass of that name."""
    token = _RUNNING.set(name)
    try:
        yield
    finally:
        _RUNNING.reset(token)
