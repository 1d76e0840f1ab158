"""Steps that begin before the tokens of the one before are known."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.generation.engine import Engine
from tests.runtime.fakes import (
    VOCAB,
    FakeAheadSession,
    FakePagedExecutor,
    continuation,
)
from tests.runtime.generation.in_flight_engines import ROWS, fake


@given(seed=st.integers(0, 10**6), caches=st.sampled_from([(16, None), (4, 4 * 24), (16, 16 * 6), (1, 95)]))
@settings(max_examples=80)
def test_steps_begin_before_tokens_are_known_and_change_nothing(seed: int, caches: tuple[int, int | None]) -> None:
    """Whether texts end by their lengths, by a token, by a neighbour's priority or by being cancelled."""
    draw = random.Random(seed)
    executor = FakePagedExecutor(caches[0], FakeAheadSession)
    engine, _ = fake(ROWS)
    engine = Engine(engine.path, engine.manifest, executor, None, cache_tokens=caches[1])
    wanted, handles, cancelled = [], [], set()
    arriving = 10
    while arriving or not engine.is_idle:
        if arriving and draw.random() < 0.3:
            arriving -= 1
            prompt = [draw.randrange(VOCAB) for _ in range(draw.randrange(1, 40))]
            stops, count = draw.sample(range(VOCAB), draw.choice([0, 1, 3])), draw.randrange(1, 30)
            tokens = continuation(prompt, count)
            end = next((at for at, token in enumerate(tokens, 1) if token in stops), None)
            wanted.append((tokens[:end], "length" if end is None else "stop"))
            wish: dict[str, Any] = {"max_new_tokens": count, "stop_token_ids": stops}
            wish |= draw.choice([{}, {}, {"repetition_penalty": 1.0001}])  # a rule, so that the step is waited for
            handles.append(engine.submit(prompt, wish, priority=draw.choice([0, 0, 1])))
        if handles and draw.random() < 0.05:
            number = draw.randrange(len(handles))
            cancelled |= {number} if handles[number].sequences else set()
            engine.cancel(handles[number])
        engine.step()
    for number, (handle, (tokens, reason)) in enumerate(zip(handles, wanted, strict=True)):
        [found] = engine.completions(handle)
        if number in cancelled:
            assert found.finish_reason == "cancelled" and tokens[: len(found.token_ids)] == found.token_ids
        else:
            assert (found.token_ids, found.finish_reason) == (tokens, reason)
    assert engine._batch is not None and [engine._batch.scheduler.cache.free] == executor.opened_blocks


def test_tokens_are_computed_before_they_are_known() -> None:
    executor = FakePagedExecutor(16, FakeAheadSession)
    engine = Engine(Path("engine"), fake(ROWS)[0].manifest, executor, None)
    [found] = engine.generate([[1, 2, 3]], max_new_tokens=20)
    assert found.token_ids == continuation([1, 2, 3], 20)
    # The first token comes from the prompt's step, after which none is waited for.
    assert executor.ahead == 19


@pytest.mark.parametrize("height", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_fail_the_request_that_runs_ahead(height: float) -> None:
    executor = FakePagedExecutor(16, FakeAheadSession)
    engine = Engine(Path("engine"), fake(ROWS)[0].manifest, executor, None)
    handle = engine.submit([1, 2, 3], max_new_tokens=20)
    for _ in range(3):
        engine.step()
    executor.height = height
    while not engine.is_idle:
        engine.step()
    [found] = engine.completions(handle)
    assert found.finish_reason == "error" and "not finite" in str(found.error)
