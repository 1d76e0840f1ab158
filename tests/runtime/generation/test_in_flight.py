"""Requests in flight: each gets what it gets alone, whatever comes, waits, is pushed aside or leaves beside it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.errors import RequestError
from runtime.generation.cache import LEAST_SHARED
from runtime.generation.sampling_params import SamplingParams
from tests.runtime.fakes import (
    VOCAB,
    FakePagedExecutor,
    FakePagedSession,
    FakeSession,
    continuation,
)
from tests.runtime.generation.in_flight_engines import LONGEST, ROWS, fake


@given(
    seed=st.integers(0, 10**6),
    rows=st.sampled_from([1, 2, 5]),
    caches=st.sampled_from([(None, None), (16, None), (4, 4 * 24), (16, 16 * 6), (1, 95)]),
)
@settings(max_examples=120)
def test_requests_at_random_times_get_what_they_get_alone(
    seed: int, rows: int, caches: tuple[int | None, int | None]
) -> None:
    """Over rows, and over blocks: as many as all sequences may need, or hardly as many as one needs."""
    draw = random.Random(seed)
    engine, executor = fake(rows, *caches)
    common = [draw.randrange(VOCAB) for _ in range(60)]
    wanted, handles, cancelled = [], [], set()
    arriving = 12
    while arriving or not engine.is_idle:
        if arriving and draw.random() < 0.4:
            arriving -= 1
            start = common[: draw.choice([0, 0, LEAST_SHARED, 30, 60])]
            prompt = start + [draw.randrange(VOCAB) for _ in range(draw.randrange(1, 20))]
            count = draw.randrange(1, 12)
            wanted.append(continuation(prompt, count))
            handles.append(engine.submit(prompt, max_new_tokens=count, priority=draw.choice([0, 0, 1, 2])))
        if handles and draw.random() < 0.05:
            number = draw.randrange(len(handles))
            cancelled |= {number} if handles[number].sequences else set()
            engine.cancel(handles[number])
        engine.step()
    for number, (handle, tokens) in enumerate(zip(handles, wanted, strict=True)):
        [found] = engine.completions(handle)
        if number in cancelled:
            assert found.finish_reason == "cancelled" and tokens[: len(found.token_ids)] == found.token_ids
        else:
            assert (found.token_ids, found.finish_reason) == (tokens, "length")
    assert engine._batch is not None
    if isinstance(executor, FakePagedExecutor):
        assert [engine._batch.scheduler.cache.free] == executor.opened_blocks
    else:
        assert engine._batch.scheduler.cache.free == rows
        assert executor.opened == [(rows, LONGEST)]


def test_a_higher_priority_takes_rows_and_nothing_is_lost() -> None:
    engine, _ = fake(rows=1)
    low = engine.submit([1, 2, 3], max_new_tokens=8)
    for _ in range(4):
        engine.step()
    high = engine.submit([4, 5], max_new_tokens=3, priority=1)
    ended = []
    while not engine.is_idle:
        ended += [update.group for update in engine.step() if update.finished]
    assert ended == [high, low]
    assert engine._batch is not None and engine._batch.scheduler.preemptions == 1
    assert engine.completions(low)[0].token_ids == continuation([1, 2, 3], 8)
    assert engine.completions(high)[0].token_ids == continuation([4, 5], 3)


def test_rows_that_are_gone_cost_nothing() -> None:
    engine, executor = fake()
    for i in range(ROWS):
        engine.submit([i], max_new_tokens=2 if i else 20)
    while not engine.is_idle:
        engine.step()
    assert executor.steps[-1] == [1]


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("at", range(1, 7))
def test_a_step_that_fails_leaves_nothing_that_is_wrong(
    at: int, block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory may be missing for one step: the next ones compute all again, and share nothing with what was there."""
    engine, _ = fake(block=block)
    common = list(range(40, 70))
    handles = [engine.submit([*common, i], max_new_tokens=5) for i in range(3)]
    session: Any = FakeSession if block is None else FakePagedSession
    whole, count = session.step, [0]

    def step(self: Any, *given: Any) -> torch.Tensor:
        count[0] += 1
        if count[0] == at:
            (self.cache if block is None else self.pool)[:] = 0  # whatever it was
            raise RequestError("there is no memory")
        logits: torch.Tensor = whole(self, *given)
        return logits

    monkeypatch.setattr(session, "step", step)
    failures = 0
    while not engine.is_idle:
        try:
            engine.step()
        except RequestError:
            failures += 1
    assert failures == 1
    for i, handle in enumerate(handles):
        assert engine.completions(handle)[0].token_ids == continuation([*common, i], 5)


def test_what_has_no_effect_is_noted_once_however_it_is_asked_for() -> None:
    engine, _ = fake()
    said: list[str] = []
    wish: Any = {"temperature": 0, "top_k": 5, "max_new_tokens": 2, "note": said.append}
    engine.generate([[1], [2]], **wish)
    list(engine.stream([1], **wish))
    engine.submit([1], **wish)
    assert said == ["top_k=5 has no effect, because do_sample is False"] * 3


def test_requests_that_cannot_be_served_disturb_nobody() -> None:
    engine, _ = fake()
    handle = engine.submit([1, 2], max_new_tokens=4)
    engine.step()
    for prompt, changes, said in (
        ([1] * LONGEST, {}, f"prompt 2 has {LONGEST} tokens, which leaves no room"),
        ([VOCAB], {}, "holds the token id"),
        ([1], {"n": ROWS + 1, "temperature": 1.0}, f"asks for n={ROWS + 1}; the engine runs at most {ROWS} sequences"),
        ([1], {"num_beams": ROWS + 1}, f"asks for num_beams={ROWS + 1}"),
        ([1], {"stop": ["x"]}, "stop holds texts, but the engine has no tokenizer"),
        ([1], {"bad_words": ["x"]}, "bad_words holds texts, but the engine has no tokenizer"),
        ([1], {"max_length": 1}, "max_length is 1, and prompt 2 has 1 tokens already"),
        ([1], {"stop_token_ids": [1], "logit_bias": {VOCAB: 1.0}}, "logit_bias holds the token id"),
        ([1], {"temperatur": 1.0}, "there is no sampling parameter 'temperatur'; did you mean 'temperature'?"),
    ):
        with pytest.raises(RequestError) as caught:
            engine.submit(prompt, **changes)
        assert said in str(caught.value)
    while not engine.is_idle:
        engine.step()
    assert engine.completions(handle)[0].token_ids == continuation([1, 2], 4)


def test_a_function_that_fails_fails_its_request_alone() -> None:
    engine, _ = fake()

    def broken(token_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        raise ValueError("I cannot")

    params = [None, SamplingParams(logits_processors=[broken]), {"max_new_tokens": 3}]
    with pytest.raises(RequestError, match="I cannot") as caught:
        engine.generate([[1], [2], [3]], params)
    found = caught.value.completions  # type: ignore[attr-defined]
    assert [c.finish_reason for c in found] == ["length", "error", "length"]
    assert found[2].token_ids == continuation([3], 3) and "I cannot" in found[1].error


def test_parameters_are_one_for_all_or_one_for_each() -> None:
    engine, _ = fake()
    found = engine.generate([[1], [2]], [{"max_new_tokens": 2}, SamplingParams(max_new_tokens=3)])
    assert [len(c.token_ids) for c in found] == [2, 3]
    with pytest.raises(RequestError, match="there are 2 prompts, but params is 1"):
        engine.generate([[1], [2]], [{"max_new_tokens": 2}])


def test_time_that_is_over_ends_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = fake()
    now = [0.0]
    monkeypatch.setattr("runtime.generation.sequence.time.monotonic", lambda: now[0])
    handle, other = engine.submit([1], max_new_tokens=50, max_time=5.0), engine.submit([2], max_new_tokens=9)
    for second in range(12):
        now[0] = float(second)
        engine.step()
    [found], [rest] = engine.completions(handle), engine.completions(other)
    assert found.finish_reason == "time" and found.token_ids == continuation([1], 5)
    assert rest.token_ids == continuation([2], 9)
