"""Prompts that are computed in chunks beside tokens that are not known yet; and engines that are warmed up before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.errors import RequestError
from runtime.engine_dir.manifest import EngineLimits, SpecialTokens
from runtime.generation.engine import Engine
from tests.runtime.engines import MANIFEST
from tests.runtime.fakes import VOCAB, FakeAheadSession, FakeExecutor, FakePagedExecutor, continuation

ROWS, LONGEST = 5, 120


class _ShortSteps(FakeAheadSession):
    """Steps of few tokens, so that prompts are cut into chunks."""

    step_tokens = 8


class _WarmsUp(FakeAheadSession):
    """Says what it would prepare."""

    def warm_up(self, sequences: int, longest: int, done: Callable[[int, int], None]) -> None:
        done(sequences, longest)


def engine_over(executor: FakeExecutor, cache_tokens: int | None = None) -> Engine:
    manifest = replace(MANIFEST, limits=EngineLimits(ROWS, LONGEST, LONGEST), tokens=SpecialTokens(()))
    return Engine(Path("engine"), manifest, executor, None, cache_tokens=cache_tokens)


def test_prompts_go_on_beside_tokens_that_are_not_known() -> None:
    executor = FakePagedExecutor(16, _ShortSteps)
    engine = engine_over(executor)
    prompts = [[1, 2, 3], [*range(4, 24)]]
    found = engine.generate(prompts, max_new_tokens=10)
    assert [each.token_ids for each in found] == [continuation(prompt, 10) for prompt in prompts]
    assert executor.steps[:4] == [[3, 5], [1, 7], [1, 7], [1, 1]]
    assert executor.ahead == 18
    assert (engine.timings.prefill_tokens, engine.timings.steps) == (8 * 3, 13)


@given(
    seed=st.integers(0, 10**6),
    caches=st.sampled_from([(16, None), (4, 4 * 24), (16, 16 * 6), (1, 95)]),
)
@settings(max_examples=30)
def test_chunks_of_prompts_ahead_change_no_text(seed: int, caches: tuple[int, int | None]) -> None:
    """Whether texts end by their lengths or by a token, or prompts begin alike and come while others run."""
    draw = random.Random(seed)
    engine = engine_over(FakePagedExecutor(caches[0], _ShortSteps), caches[1])
    common = [draw.randrange(VOCAB) for _ in range(20)]
    wanted: list[list[int]] = []
    handles = []
    while len(wanted) < 9 or not engine.is_idle:
        if len(wanted) < 9 and draw.random() < 0.4:
            own = [draw.randrange(VOCAB) for _ in range(draw.randrange(1, 30))]
            prompt = [*common[: draw.choice([0, 16, 20])], *own]
            stops, count = draw.sample(range(VOCAB), draw.choice([0, 3])), draw.randrange(1, 30)
            tokens = continuation(prompt, count)
            wanted.append(tokens[: next((at for at, token in enumerate(tokens, 1) if token in stops), None)])
            wish = {"max_new_tokens": count, "stop_token_ids": stops, **draw.choice([{}, {"logprobs": 0}])}
            handles.append(engine.submit(prompt, wish, priority=draw.choice([0, 0, 1])))
        engine.step()
    assert [engine.completions(handle)[0].token_ids for handle in handles] == wanted


def test_an_engine_is_warmed_up_for_all_that_it_takes_before_requests_come() -> None:
    engine = engine_over(FakePagedExecutor(16, _WarmsUp))
    ready: list[tuple[int, int]] = []
    engine.warm_up(lambda at, of: ready.append((at, of)))
    handle = engine.submit([1, 2], max_new_tokens=2)
    with pytest.raises(RequestError, match="requests are in progress"):
        engine.warm_up()
    engine.cancel(handle)
    engine.warm_up()
    assert ready == [(ROWS, LONGEST)]
    for executor in (FakePagedExecutor(16), FakeExecutor()):
        engine_over(executor).warm_up()
