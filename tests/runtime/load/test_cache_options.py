"""What a user says about caches: done, or refused before weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llmc
from compiler.errors import EngineError, GraphError, LlmcError, RequestError
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.kind import find_executor
from runtime.executors.paged import PagedExecutor
from runtime.load.cache_options import CacheOptions
from tests.paths import MODELS

PROMPTS = [[40, 41, 42], [100, 7]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear engine."""
    place = tmp_path_factory.mktemp("engines") / "engine"
    return llmc.compile(MODELS / "gptj-tiny", place, target="torch", dtype="float32", max_batch=4, max_seq=128).path


def loaded(folder: Path, **how: Any) -> llmc.Engine:
    return llmc.load(folder, **{"executor": "torch", "device": "cpu", "note": pytest.fail, **how})


@pytest.mark.parametrize("executor", ["torch", "interpreter"])
@pytest.mark.parametrize("wish", [{"cache_tokens": 200}, {"paged_cache": True}])
def test_linear_engines_are_paged_if_that_is_asked_for(executor: str, wish: dict[str, Any], folder: Path) -> None:
    expected = loaded(folder).generate(PROMPTS, max_new_tokens=6)
    engine = loaded(folder, executor=executor, **wish)
    assert isinstance(engine.executor, PagedExecutor) and engine.executor.block == 64
    found = engine.generate(PROMPTS, max_new_tokens=6)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    engine.submit(PROMPTS[0], max_new_tokens=1)
    assert engine._batch is not None
    assert engine._batch.scheduler.cache.size == (4 if "cache_tokens" in wish else 8)


def test_caches_stay_as_they_were_compiled_unless_asked_for(folder: Path) -> None:
    executor: Any = loaded(folder).executor
    assert executor.block is None


@pytest.mark.parametrize(
    ("options", "asked"), [({"tokens": 5}, "--cache-tokens 5 was given"), ({"paged": True}, "--paged-cache was given")]
)
@pytest.mark.parametrize("name", ["tensorrt", "emulator"])
def test_executors_with_linear_caches_refuse(name: str, options: dict[str, Any], asked: str) -> None:
    with pytest.raises(
        EngineError, match=f"{asked}, but {name} runs linear caches, which have a row of max_seq"
    ) as error:
        CacheOptions(**options).check(find_executor(name))
    assert "--executor torch" in (error.value.hint or "")
    CacheOptions().check(find_executor(name))


@pytest.mark.parametrize("tokens", [0, -1])
def test_caches_hold_a_token_or_more(tokens: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.load.loading.open_engine", lambda *given, **how: pytest.fail("it was opened"))
    with pytest.raises(RequestError, match=f"the caches were to hold {tokens} tokens; they hold 1 or more"):
        loaded(folder, cache_tokens=tokens)


def test_attention_that_is_not_fused_cannot_be_paged() -> None:
    graph = llmc.lift(MODELS / "gptj-tiny", max_batch=2, max_seq=32)
    with pytest.raises(GraphError, match="caches cannot be paged") as error:
        InterpreterExecutor(graph, block=16)
    assert isinstance(error.value, LlmcError) and "fuse-attention" in (error.value.hint or "")


@pytest.mark.parametrize("tokens", ["256", 64.5, True])
def test_a_number_of_tokens_is_an_integer(tokens: Any) -> None:
    with pytest.raises(RequestError, match=r"cache_tokens is .*; it must be an integer"):
        CacheOptions(tokens)
