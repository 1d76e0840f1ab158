"""Requests in flight on executors other than torch: rows that come, go, are taken away and change places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llmc
from runtime.generation.engine import Engine
from tests.paths import MODELS
from tests.runtime.generation.random_load import LONGEST, ROWS, check, expected, serve, summary

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


def test_requests_get_what_they_get_alone_with_torch(engine: Engine, torch_engine: Engine) -> None:
    for seed in (11, 12, 13):
        check(serve(engine, seed), expected(torch_engine, seed))


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
    wishes: list[Any] = [{"max_new_tokens": 30}, {"max_new_tokens": 5, "num_beams": 3}]
    alone = [
        torch_engine.generate([prompt], wish, ignore_eos=True)
        for prompt, wish in zip((prompts[0], [*prompts[2], 7]), wishes, strict=True)
    ]
    found = [engine.completions(handle) for handle in (handles[0], late)]
    assert list(map(summary, found)) == list(map(summary, alone))
