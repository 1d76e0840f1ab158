"""Engines for tests of requests in flight: fakes that remember every token, and small models."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import llmc
from runtime.engine_dir.manifest import EngineLimits, SpecialTokens
from runtime.generation.engine import Engine
from tests.paths import MODELS
from tests.runtime.engines import MANIFEST
from tests.runtime.fakes import (
    FakeExecutor,
    FakePagedExecutor,
)

ROWS, LONGEST = 5, 120


def fake(rows: int = ROWS, block: int | None = None, cache_tokens: int | None = None) -> tuple[Engine, FakeExecutor]:
    """An engine whose next token follows from all of a text, so that any stale or missing token shows.

    Its caches are linear, or paged in blocks of `block` tokens.
    """
    executor = FakeExecutor() if block is None else FakePagedExecutor(block)
    manifest = replace(MANIFEST, limits=EngineLimits(rows, LONGEST, LONGEST), tokens=SpecialTokens(()))
    return Engine(Path("engine"), manifest, executor, None, cache_tokens=cache_tokens), executor


def paged(tokens: int, rows: int = ROWS, block: int = 4) -> tuple[Engine, FakePagedExecutor]:
    """The same over blocks that hold so many tokens."""
    engine, executor = fake(rows, block, tokens)
    assert isinstance(executor, FakePagedExecutor)
    return engine, executor


@functools.cache
def small_engine(name: str, passes: str = "", cache_tokens: int | None = None) -> Engine:
    """A bundled model in float32, so that batches round as single requests do, but for the order of sums."""
    import tempfile

    folder = Path(tempfile.mkdtemp()) / "engine"
    llmc.compile(MODELS / name, folder, target="torch", dtype="float32", passes=passes, max_batch=6, max_seq=128)
    return llmc.load(folder, executor="torch", device="cpu", cache_tokens=cache_tokens)
