"""Requests in flight over blocks: shared, copied before they are written, taken from the last to come."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.errors import RequestError
from tests.runtime.fakes import (
    VOCAB,
    continuation,
)
from tests.runtime.generation.in_flight_engines import LONGEST, ROWS, fake, paged


@given(seed=st.integers(0, 10**6), block=st.sampled_from([1, 4, 16]))
@settings(max_examples=40)
def test_samples_and_beams_over_few_blocks_are_what_they_are_alone(seed: int, block: int) -> None:
    draw = random.Random(seed)
    engine, _ = fake(ROWS, block, 16 * 8)
    common = [draw.randrange(VOCAB) for _ in range(30)]
    waiting = []
    for _ in range(8):
        prompt = [*common[: draw.choice([0, 16, 30])], *(draw.randrange(VOCAB) for _ in range(draw.randrange(1, 10)))]
        wish: dict[str, Any] = {"max_new_tokens": draw.randrange(1, 12)}
        wish |= draw.choice([{}, {"n": 3, "temperature": 2.0, "seed": 5}, {"num_beams": 3, "num_return_sequences": 3}])
        waiting.append((prompt, wish))
    expected = [fake()[0].generate([prompt], wish) for prompt, wish in waiting]
    handles = []
    while waiting or not engine.is_idle:
        if waiting and draw.random() < 0.6:
            prompt, wish = waiting.pop(0)
            handles.append(engine.submit(prompt, wish, priority=draw.choice([0, 0, 1])))
        engine.step()
    assert engine._batch is not None and engine._batch.scheduler.cache.free == 16 * 8 // block
    for handle, alone in zip(handles, expected, strict=True):
        assert [(c.token_ids, c.finish_reason) for c in engine.completions(handle)] == [
            (c.token_ids, c.finish_reason) for c in alone
        ]


def two_tokens(token_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    """Leave two tokens, whose logits follow from the most likely one."""
    best = int(logits.argmax())
    left = torch.full_like(logits, -float("inf"))
    left[10], left[11] = best * 7 % 13 / 13, best * 5 % 11 / 11
    return left


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("first", [0, 3, 4])
def test_beams_of_which_some_are_alike_are_computed_again_each_with_its_own_logits(
    first: int, block: int | None
) -> None:
    """Fewer tokens may come than there are beams, so that some have the text of the first one after a step."""
    wish = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 8, "logits_processors": [two_tokens]}
    alone = fake()[0].generate([[first, 2, 3]], wish)
    engine, _ = fake(block=block)
    handle = engine.submit([first, 2, 3], wish)
    engine.step()
    texts = [tuple(sequence.tokens) for sequence in handle.sequences]
    assert 1 < len({*texts}) < len(texts) and texts.count(texts[0]) > 1
    engine.submit([4, 5], max_new_tokens=2, n=ROWS, temperature=1.0, priority=1)
    while not engine.is_idle:
        engine.step()
    assert engine._batch is not None and engine._batch.scheduler.preemptions == 1
    found = engine.completions(handle)
    assert [(c.token_ids, c.score) for c in found] == [(c.token_ids, c.score) for c in alone]


def test_a_text_that_grows_takes_the_blocks_of_the_last_to_come_and_nothing_is_lost() -> None:
    engine, _ = paged(24, rows=3)
    prompts = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]
    handles = [engine.submit(prompt, max_new_tokens=12) for prompt in prompts]
    ended = []
    while not engine.is_idle:
        ended += [update.group for update in engine.step() if update.finished]
    assert ended == handles and engine._batch is not None
    assert engine.timings.preemptions == engine._batch.scheduler.preemptions > 0
    assert engine._batch.scheduler.cache.free == 6
    for prompt, handle in zip(prompts, handles, strict=True):
        assert engine.completions(handle)[0].token_ids == continuation(prompt, 12)


def test_a_request_that_no_cache_holds_is_refused_and_disturbs_nobody() -> None:
    engine, _ = paged(24)
    handle = engine.submit([1, 2], max_new_tokens=8)
    engine.step()
    for wish in ({"max_new_tokens": 20}, {"max_new_tokens": 9, "n": 4, "temperature": 1.0}):
        with pytest.raises(RequestError, match=r"prompt 2 has 5 tokens .* of the caches; they hold 24"):
            engine.submit([1] * 5, wish)
        with pytest.raises(RequestError, match=r"prompt 1 has 5 tokens .* of the caches; they hold 24"):
            engine.generate([[1] * 5], wish)
    while not engine.is_idle:
        engine.step()
    assert engine.completions(handle)[0].token_ids == continuation([1, 2], 8)


def test_there_are_as_many_blocks_as_all_sequences_need_or_memory_holds() -> None:
    engine, executor = paged(100)
    engine.cache_tokens = None
    [_] = engine.generate([[1, 2, 3]], max_new_tokens=6)
    executor.memory = 100
    engine.submit([1])
    executor.memory, engine._batch = 1000, None
    engine.submit([1])
    assert executor.opened_blocks == [3, 80, ROWS * LONGEST // 4]
    engine.cache_tokens, engine._batch = 1001, None
    engine.submit([1])  # more than they need: for beginnings of texts that have ended
    engine.generate([[1, 2, 3]], max_new_tokens=6)
    assert executor.opened_blocks[3:] == [251, 3]


def test_samples_and_beams_copy_the_last_block_only() -> None:
    engine, executor = paged(100)
    prompt = list(range(40, 80 + 2))
    engine.generate([prompt], max_new_tokens=3, n=4, temperature=1.0, seed=1)
    assert executor.copied == [3]
    executor.copied.clear()
    engine.generate([prompt], max_new_tokens=9, num_beams=3)
    assert executor.copied and max(executor.copied) <= 2
    assert [len(step) for step in executor.steps] == [1, 4, 4, 1, *[3] * 8]


@pytest.mark.parametrize("block", [None, 8])
def test_what_texts_begin_with_is_computed_once(block: int | None) -> None:
    engine, executor = fake(block=block)
    common = list(range(40, 80))
    prompts = [[*common, 1], [*common, 2, 3], [*common, 4], common]
    found = engine.generate(prompts, max_new_tokens=1)
    assert [c.token_ids for c in found] == [continuation(prompt, 1) for prompt in prompts]
    # The first prompt; of the others what is their own. Of the last, which is all common, a token, or the last block.
    assert sum(sum(step) for step in executor.steps) == 41 + 2 + 1 + (block or 1)


def test_what_texts_begin_with_is_shared_after_they_have_ended() -> None:
    engine, executor = paged(200, block=8)
    common = list(range(40, 80))
    for end in (1, 2, 3):
        engine.submit([*common, end], max_new_tokens=2)
        while not engine.is_idle:
            engine.step()
    assert [sum(step) for step in executor.steps] == [41, 1, 1, 1, 1, 1] and executor.copied == []


def test_the_cost_of_steps_follows_their_tokens() -> None:
    engine, executor = fake()
    handles = [engine.submit([i, i + 1], max_new_tokens=30) for i in range(ROWS - 1)]
    for _ in range(3):
        engine.step()
    before = len(executor.steps)
    handles.append(engine.submit(list(range(90)), max_new_tokens=2))
    engine.step()
    decoding, prompt = executor.steps[before:]
    assert (decoding, prompt) == ([1] * (ROWS - 1), [90])  # no row is padded to the length of the prompt
    while not engine.is_idle:
        engine.step()
    assert [len(engine.completions(handle)[0].token_ids) for handle in handles] == [30] * (ROWS - 1) + [2]


def test_prompts_and_texts_in_progress_share_a_packed_step() -> None:
    engine, executor = fake(block=16)
    for i in range(ROWS - 1):
        engine.submit([i, i + 1], max_new_tokens=30)
    engine.step()
    handle = engine.submit(list(range(90)), max_new_tokens=2)
    engine.step()
    assert executor.steps[1:] == [[1] * (ROWS - 1) + [90]]
    while not engine.is_idle:
        engine.step()
    assert engine.completions(handle)[0].token_ids == continuation(list(range(90)), 2)
