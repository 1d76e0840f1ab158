"""Requests in flight on executors other than torch: rows that come, go, are taken away and change places."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import llmc
from runtime.generation.engine import Engine
from tests.paths import MODELS

ROWS, LONGEST = 4, 64
PLANS = "tensorrt-rtx:batch_sizes=1+4:prompt_sizes=16:capacities=64"


@pytest.fixture(scope="module", params=["emulator", "interpreter", "interpreter, paged"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    executor = request.param.partition(",")[0]
    if executor == "emulator":
        pytest.importorskip("tensorrt_rtx")
    path = llmc.compile(
        MODELS / "mpt-tiny",
        tmp_path_factory.mktemp("engine") / "engine",
        target=PLANS if executor == "emulator" else "torch",
        passes="cache=paged:block=8" if "paged" in request.param else "",
        dtype="float32",
        max_batch=ROWS,
        max_seq=LONGEST,
    ).path
    return llmc.load(path, executor=executor, device="cpu")


@pytest.fixture(scope="module")
def torch_engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder: Path = tmp_path_factory.mktemp("torch") / "engine"
    options: Any = {"target": "torch", "dtype": "float32", "max_batch": ROWS, "max_seq": LONGEST}
    return llmc.load(llmc.compile(MODELS / "mpt-tiny", folder, **options).path, executor="torch", device="cpu")


WISHES: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 3, "n": 2},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
    {"prompt_logprobs": 1, "repetition_penalty": 1.2},
    {"temperature": 0.8, "seed": 5, "top_k": 40, "no_repeat_ngram_size": 2},
    {"num_beams": 4, "early_stopping": True},
]


def found(completions: Any) -> list[Any]:
    return [(each.token_ids, each.text, each.finish_reason) for each in completions]


def test_requests_get_what_they_get_alone_with_torch(engine: Engine, torch_engine: Engine) -> None:
    draw = random.Random(11)
    common = [draw.randrange(20, 900) for _ in range(20)]  # shared beginnings, of which rows are copied
    requests = []
    for number in range(10):
        own = [draw.randrange(20, 900) for _ in range(draw.choice([1, 3, 18]))]
        start = common if number % 3 else []
        requests.append(([*start, *own], {**WISHES[number % len(WISHES)], "max_new_tokens": draw.randrange(2, 7)}))
    alone = [torch_engine.generate([prompt], wish) for prompt, wish in requests]
    cancelled = {2, 7}
    handles: list[Any] = []
    while len(handles) < len(requests) or not engine.is_idle:
        if len(handles) < len(requests) and draw.random() < 0.7:
            prompt, wish = requests[len(handles)]
            handles.append(engine.submit(prompt, wish, priority=len(handles) % 3))
        engine.step()
        for number in cancelled & {*range(len(handles))}:
            engine.cancel(handles[number])
    batch = engine._batch
    assert batch is not None and batch.scheduler.preemptions > 0 and batch.scheduler.cache.free == ROWS
    for number, (handle, expected) in enumerate(zip(handles, alone, strict=True)):
        if number in cancelled:
            assert {each.finish_reason for each in engine.completions(handle)} == {"cancelled"}
        else:
            assert found(engine.completions(handle)) == found(expected)


def test_a_request_after_those_that_left_finds_nothing_of_theirs(engine: Engine, torch_engine: Engine) -> None:
    prompts = [[40 + row, *range(100, 120)] for row in range(ROWS)]
    handles = [engine.submit(prompt, max_new_tokens=30, ignore_eos=True) for prompt in prompts]
    for _ in range(3):
        engine.step()
    for handle in handles[1:]:
        engine.cancel(handle)
    late = engine.submit([*prompts[2], 7], max_new_tokens=5, num_beams=3, ignore_eos=True)  # shares a row that is left
    while not engine.is_idle:
        engine.step()
    assert found(engine.completions(late)) == found(
        torch_engine.generate([[*prompts[2], 7]], max_new_tokens=5, num_beams=3, ignore_eos=True)
    )
    assert found(engine.completions(handles[0])) == found(
        torch_engine.generate([prompts[0]], max_new_tokens=30, ignore_eos=True)
    )
