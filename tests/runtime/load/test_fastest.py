"""`auto` takes what is the fastest for an engine on a machine, as it was measured once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compiler.cache import cache_folder
from compiler.errors import TargetError
from runtime.executors.interface import RankExecutor
from runtime.executors.kind import ExecutorKind, RankToLoad, register_executor
from runtime.executors.kinds import CpuKind, TorchKind
from runtime.generation.engine import Engine
from runtime.load import fastest
from runtime.load.fastest import milliseconds_a_step
from runtime.load.loading import load_engine
from tests.registrations import forgotten
from tests.runtime.engines import MANIFEST, write_engine
from tests.runtime.fakes import FakeExecutor

TIMES = {"red": 3.0, "green": 2.0}
"""Milliseconds a step of the executors that there are."""


class Fake(ExecutorKind):
    """Makes an executor that knows its name, or fails."""

    summary = "a fake"
    targets = ("torch",)
    automatic = timed = True
    error = ""

    def load(self, rank: RankToLoad) -> RankExecutor:
        if self.error:
            raise TargetError(self.error)
        executor = FakeExecutor()
        executor.name = self.name
        return executor  # type: ignore[return-value]


class Red(Fake):
    name = "red"


class Green(Fake):
    name = "green"
    pages = True


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The executors that were measured, in order; an engine of this machine runs on `red` and `green`."""
    names: list[str] = []

    def look_up(engine: Engine, batch: int) -> float:
        assert batch == MANIFEST.limits.max_batch
        names.append(engine.executor.name)
        return TIMES[engine.executor.name]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fastest, "milliseconds_a_step", look_up)
    monkeypatch.setattr(fastest, "gpu_name", lambda device: f"GPU {device}")
    for kind in (CpuKind, TorchKind):
        monkeypatch.setattr(kind, "automatic", False)
    write_engine(tmp_path / "engine")
    with forgotten():
        register_executor(Red)
        register_executor(Green)
        yield names


Load = Callable[..., tuple[str, list[str]]]


@pytest.fixture
def load(measured: list[str], tmp_path: Path) -> Load:
    """Loads the engine; gives the executor's name, and the notes."""

    def load(**options: str | bool) -> tuple[str, list[str]]:
        notes: list[str] = []
        engine = load_engine(tmp_path / "engine", note=notes.append, **options)  # type: ignore[arg-type]
        return engine.executor.name, notes

    return load


def test_the_fastest_is_measured_once_said_and_remembered(load: Load, measured: list[str]) -> None:
    name, notes = load()
    assert (name, measured) == ("green", ["red", "green"])
    (note,) = notes
    assert note.endswith("runs on green, the fastest for it here (measured, a step: green 2.00 ms, red 3.00 ms)")
    assert load() == ("green", [])
    assert measured == ["red", "green"]
    (kept,) = cache_folder().glob("executor-*.json")
    assert json.loads(kept.read_text()) == {"executor": "green", "milliseconds": {"red": 3.0, "green": 2.0}}


def test_another_gpu_or_other_versions_are_measured_again(
    load: Load, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    load(device="cuda:1")
    assert len(measured) == 4
    monkeypatch.setattr(fastest, "version", lambda package: "99")
    load()
    assert len(measured) == 6


def test_who_names_an_executor_gets_it_without_a_measurement(load: Load, measured: list[str]) -> None:
    assert load(executor="red") == ("red", [])
    assert measured == []


def test_what_cannot_page_is_no_rival_where_caches_must_be(load: Load, measured: list[str]) -> None:
    assert load(paged_cache=True) == ("green", [])
    assert measured == []


def test_one_that_fails_leaves_it_to_the_other(
    load: Load, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Red, "error", "red is for another GPU")
    name, notes = load()
    assert (name, measured) == ("green", [])
    assert [note.partition(" does not ")[2] for note in notes] == ["run on red: red is for another GPU"]
    monkeypatch.setattr(Green, "error", "and green as well")
    with pytest.raises(TargetError, match="and green as well"):
        load()
    monkeypatch.setattr(Red, "error", "")
    assert load()[0] == "red"
    assert measured == ["red"]  # nothing wrong was remembered


@pytest.mark.parametrize("content", ["", "[]", '{"executor": "blue"}'])
def test_a_damaged_memory_is_measured_anew(load: Load, measured: list[str], content: str) -> None:
    load()
    (kept,) = cache_folder().glob("executor-*.json")
    kept.write_text(content)
    assert load()[0] == "green"
    assert len(measured) == 4


def test_a_step_is_what_more_tokens_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock shows 5 ms for each step, and 1 s for a prompt."""
    executor = FakeExecutor()

    def now() -> float:
        return sum(1.0 if max(counts) > 1 else 0.005 for counts in executor.steps)

    monkeypatch.setattr(fastest, "perf_counter", now)
    engine = Engine(Path("engine"), MANIFEST, executor, None)
    assert milliseconds_a_step(engine, 3) == pytest.approx(5.0)
    assert all(batch == 3 for batch, _ in executor.opened)
