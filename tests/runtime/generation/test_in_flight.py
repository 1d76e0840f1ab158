"""Requests in flight: each gets what it gets alone, whatever comes, waits, is pushed aside or leaves beside it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llmc
from compiler.errors import RequestError
from runtime.engine_dir.manifest import EngineLimits, SpecialTokens
from runtime.generation.cache import LEAST_SHARED
from runtime.generation.engine import Engine
from runtime.generation.sampling_params import SamplingParams
from tests.paths import MODELS
from tests.runtime.engines import MANIFEST
from tests.runtime.fakes import (
    VOCAB,
    FakeAheadSession,
    FakeExecutor,
    FakePagedExecutor,
    FakePagedSession,
    FakeSession,
    continuation,
)

ROWS, LONGEST = 5, 120


def fake(rows: int = ROWS, block: int | None = None, cache_tokens: int | None = None) -> tuple[Engine, FakeExecutor]:
    """An engine whose next token follows from all of a text, so that any stale or missing token shows.

    Its caches are linear, or paged in blocks of `block` tokens.
    """
    executor = FakeExecutor() if block is None else FakePagedExecutor(block)
    manifest = replace(MANIFEST, limits=EngineLimits(rows, LONGEST, LONGEST), tokens=SpecialTokens(()))
    return Engine(Path("engine"), manifest, executor, None, cache_tokens=cache_tokens), executor


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


def paged(tokens: int, rows: int = ROWS, block: int = 4) -> tuple[Engine, FakePagedExecutor]:
    """The same over blocks that hold so many tokens."""
    engine, executor = fake(rows, block, tokens)
    assert isinstance(executor, FakePagedExecutor)
    return engine, executor


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


@functools.cache
def small_engine(name: str, passes: str = "", cache_tokens: int | None = None) -> Engine:
    """A bundled model in float32, so that batches round as single requests do, but for the order of sums."""
    import tempfile

    folder = Path(tempfile.mkdtemp()) / "engine"
    llmc.compile(MODELS / name, folder, target="torch", dtype="float32", passes=passes, max_batch=6, max_seq=128)
    return llmc.load(folder, executor="torch", device="cpu", cache_tokens=cache_tokens)


def _wish(draw: random.Random) -> dict[str, Any]:
    wish: dict[str, Any] = {"max_new_tokens": draw.randrange(1, 14), "ignore_eos": draw.random() < 0.5}
    kind = draw.random()
    if kind < 0.3:
        wish |= {"temperature": draw.choice([0.5, 1.0]), "seed": draw.randrange(1000), "top_k": draw.choice([0, 50])}
    elif kind < 0.45:
        wish |= {"temperature": 1.0, "seed": draw.randrange(1000), "n": draw.choice([2, 3])}
    elif kind < 0.65:
        wish |= {"num_beams": draw.choice([2, 4]), "num_return_sequences": 2, "length_penalty": draw.choice([0.0, 2.0])}
    extras: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3},
        {"prompt_logprobs": 1},
        {"stop": ["the", "a "]},
        {"no_repeat_ngram_size": 2},
    ]
    return {**wish, **(draw.choice(extras) if draw.random() < 0.6 else {})}


# Four beams of a prompt of 70 tokens and 13 more take 12 blocks of 16 tokens; no request takes more.
TIGHT = 12 * 16


@pytest.mark.parametrize(
    ("name", "passes", "cache_tokens", "count"),
    [
        ("gptneox-tiny", "", None, 100),
        ("gptj-tiny", "", None, 30),
        ("mpt-tiny", "", None, 30),
        ("opt-tiny", "", None, 30),
        ("gptneox-tiny", "cache=paged:block=16", TIGHT, 300),
        ("gptneox-tiny", "cache=paged:block=16", None, 30),
        ("gptj-tiny", "cache=paged:block=8", TIGHT, 30),
        ("mpt-tiny", "cache=paged:block=16", TIGHT, 30),
        ("opt-tiny", "", 512, 30),
    ],
)
def test_models_give_requests_of_all_sorts_what_they_get_alone(
    name: str, passes: str, cache_tokens: int | None, count: int
) -> None:
    """Samples, beams, shared beginnings, priorities, cancellations; caches so small that requests lose their places."""
    engine, draw = small_engine(name, passes, cache_tokens), random.Random(7)
    common = [draw.randrange(20, 900) for _ in range(40)]
    requests = []
    for _ in range(count):
        start = common[: draw.choice([0, 20, 40])]
        requests.append(([*start, *(draw.randrange(20, 900) for _ in range(draw.choice([1, 3, 30])))], _wish(draw)))
    alone = [engine.generate([prompt], wish) for prompt, wish in requests]
    handles: list[Any] = []
    cancelled = set()
    while len(handles) < len(requests) or not engine.is_idle:
        if len(handles) < len(requests) and draw.random() < 0.8:
            prompt, wish = requests[len(handles)]
            handles.append(engine.submit(prompt, wish, priority=draw.choice([0, 0, 0, 1, 2])))
        if handles and draw.random() < 0.02 and (number := draw.randrange(len(handles))) not in cancelled:
            cancelled |= {number} if handles[number].sequences else set()
            engine.cancel(handles[number])
        engine.step()
    assert engine._batch is not None and engine._batch.scheduler.preemptions > 0
    assert engine._batch.scheduler.cache.free == engine._batch.scheduler.cache.size
    assert cancelled or count < 100
    for number, (handle, expected) in enumerate(zip(handles, alone, strict=True)):
        found = engine.completions(handle)
        if number in cancelled:
            if handle.beams is None:  # beams may have been others until then
                pairs = zip(found, expected, strict=True)
                assert all(other.token_ids[: len(one.token_ids)] == one.token_ids for one, other in pairs)
            continue
        assert [(c.token_ids, c.text, c.finish_reason, c.seed) for c in found] == [
            (c.token_ids, c.text, c.finish_reason, c.seed) for c in expected
        ]
        for one, other in zip(found, expected, strict=True):
            if one.prompt_logprobs is not None and other.prompt_logprobs is not None:
                assert [p and p.token_id for p in one.prompt_logprobs] == [
                    p and p.token_id for p in other.prompt_logprobs
                ]
                reported = zip(one.prompt_logprobs[1:], other.prompt_logprobs[1:], strict=True)
                assert all(abs(p.logprob - q.logprob) < 1e-3 for p, q in reported if p and q)


@pytest.mark.parametrize("name", ["gptneox-tiny", "gptj-tiny", "mpt-tiny", "opt-tiny"])
def test_beams_are_those_of_transformers_alone_and_batched(name: str) -> None:
    import transformers

    engine = small_engine(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32).eval()
    ends = list(engine.manifest.tokens.eos)
    prompts = [[40, 41, 42], [100, 7], [300, 301, 302, 303, 304]]
    wishes = [
        {"num_beams": beams, "length_penalty": penalty, "early_stopping": early, "num_return_sequences": 2}
        for beams, penalty, early in ((2, 1.0, False), (4, 0.0, True), (2, 2.0, "never"))
    ]
    expected = []
    for prompt, wish in zip(prompts, wishes, strict=True):
        ids = torch.tensor([prompt])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=ends, pad_token_id=0,
            max_new_tokens=12, return_dict_in_generate=True, output_scores=True, **wish,
        )  # fmt: skip
        lengths = (made.beam_indices >= 0).sum(1).tolist()
        expected += [
            row[len(prompt) : len(prompt) + n] for row, n in zip(made.sequences.tolist(), lengths, strict=True)
        ]
    found = engine.generate(prompts, wishes, max_new_tokens=12)
    assert [c.token_ids for c in found] == expected
    for number, (prompt, wish) in enumerate(zip(prompts, wishes, strict=True)):
        alone = engine.generate([prompt], wish, max_new_tokens=12)
        assert [c.token_ids for c in alone] == expected[2 * number : 2 * number + 2]


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
