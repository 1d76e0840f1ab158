"""Texts piece by piece, and requests of threads and coroutines that share steps."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import Any

import pytest
import torch

from compiler.errors import RequestError
from runtime.generation.engine import Engine
from tests.runtime.fakes import (
    FakeSession,
    continuation,
)
from tests.runtime.generation.in_flight_engines import ROWS, fake, small_engine


def test_a_stream_gives_the_text_piece_by_piece() -> None:
    engine = small_engine("gptneox-tiny")
    [whole] = engine.generate(["The function returns a list of"], max_new_tokens=24)
    pieces = list(engine.stream("The function returns a list of", max_new_tokens=24))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.token_id for piece in pieces if piece.token_id is not None] == whole.token_ids
    assert pieces[-1].completion == whole and len(pieces) > 10
    stop = whole.text[10:14]
    [cut] = engine.generate(["The function returns a list of"], max_new_tokens=24, stop=[stop])
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish_reason == "stop"
    streamed = list(engine.stream("The function returns a list of", max_new_tokens=24, stop=[stop]))
    assert "".join(piece.text for piece in streamed) == cut.text


def test_samples_of_a_prompt_differ_and_follow_from_the_seed() -> None:
    engine = small_engine("mpt-tiny")
    wish = {"temperature": 1.0, "n": 4, "max_new_tokens": 8, "logprobs": 2}
    first, second = (engine.generate(["Once upon a time"], wish, seed=5) for _ in range(2))
    assert first == second and [c.sample for c in first] == [0, 1, 2, 3]
    assert len({tuple(c.token_ids) for c in first}) > 1
    for completion in first:
        assert completion.logprobs is not None
        assert [each.token_id for each in completion.logprobs] == completion.token_ids
    fresh = engine.generate(["Once upon a time"], wish)
    assert len({c.seed for c in fresh}) == 1 and fresh[0].seed is not None
    assert engine.generate(["Once upon a time"], wish, seed=fresh[0].seed) == fresh


def test_asynchronous_requests_share_steps_and_those_left_are_cancelled() -> None:
    engine = small_engine("gptneox-tiny")
    prompts = ["The function returns", "A list", "Once upon a time"]
    alone = [engine.generate([prompt], max_new_tokens=10)[0] for prompt in prompts]

    async def left() -> str:
        async with contextlib.aclosing(engine.astream(prompts[0], max_new_tokens=60)) as pieces:
            async for piece in pieces:
                return piece.text
        raise AssertionError

    async def everything() -> list[Any]:
        async def streamed(prompt: str) -> str:
            return "".join([piece.text async for piece in engine.astream(prompt, max_new_tokens=10)])

        return await asyncio.gather(
            *(engine.agenerate(prompt, max_new_tokens=10) for prompt in prompts),
            streamed(prompts[1]),
            left(),
            engine.agenerate([1] * 500),
            return_exceptions=True,
        )

    before = engine.timings.steps if engine._batch is not None else 0
    *found, text, _, refused = asyncio.run(everything())
    assert [completion.text for [completion] in found] == [completion.text for completion in alone]
    assert text == alone[1].text and isinstance(refused, RequestError)
    # One after the other they would take 4 * 10 steps, and the one that is left up to 60, according to when it is.
    assert engine.is_idle and engine.timings.steps - before < 80


def test_who_waits_for_a_request_that_is_cancelled_is_told() -> None:
    engine, _ = fake()

    async def waiting() -> list[Any]:
        pieces = engine.astream([1, 2, 3], max_new_tokens=100)
        first = await anext(pieces)
        assert engine._batch is not None
        engine.cancel(engine._batch.scheduler.running[0])
        return [first, *[piece async for piece in pieces]]

    *_, last = asyncio.run(asyncio.wait_for(waiting(), 60))
    assert last.completion is not None and last.completion.finish_reason == "cancelled"
    assert continuation([1, 2, 3], 100)[: len(last.completion.token_ids)] == last.completion.token_ids


@pytest.mark.parametrize("submitted_first", [True, False])
def test_who_leaves_while_the_request_is_submitted_leaves_nothing_behind(
    submitted_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = fake()
    submit, entered, go_on, done = Engine.submit, threading.Event(), threading.Event(), threading.Event()

    def slow(self: Engine, *given: Any, **options: Any) -> Any:
        entered.set()
        go_on.wait(60)
        group = submit(self, *given, **options)
        done.set()
        return group

    monkeypatch.setattr(Engine, "submit", slow)

    async def leaving() -> None:
        waiting = asyncio.ensure_future(anext(engine.astream([1, 2, 3], max_new_tokens=50)))
        await asyncio.to_thread(entered.wait, 60)
        if submitted_first:  # its thread is through, but the loop has not heard of it
            go_on.set()
            done.wait(60)
        waiting.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(leaving())  # which waits for the threads
    assert engine._batch is not None and engine.is_idle
    assert engine._batch.scheduler.cache.free == ROWS


def test_a_step_that_fails_is_raised_by_all_who_wait_and_by_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = fake()
    unheard: list[Any] = []

    async def waiting() -> list[Any]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
        monkeypatch.setattr(FakeSession, "step", broken)
        found = []
        for start in (0, 2):  # the second time another task drives the steps
            both = (engine.agenerate([start + i], max_new_tokens=5) for i in range(2))
            found += await asyncio.gather(*both, return_exceptions=True)
            gc.collect()
        return found

    def broken(self: FakeSession, *given: Any) -> torch.Tensor:
        raise RequestError("there is no memory")

    found = asyncio.run(waiting())
    assert [str(each) for each in found] == ["there is no memory"] * 4 and not unheard
    assert engine.is_idle
