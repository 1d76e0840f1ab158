"""Requests of tasks: virtual tokens stand before the prompt, count for lengths, and show nowhere else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llmc
from compiler.errors import RequestError
from compiler.ir.tasks import Task
from runtime.engine_dir.manifest import EngineLimits, SpecialTokens
from runtime.generation.cache import LEAST_SHARED
from runtime.generation.completion import Completion
from runtime.generation.engine import Engine
from tests.adapters.folders import PREFIX, adapter, bundled, greedy, logits, table
from tests.paths import MODELS
from tests.runtime.engines import MANIFEST
from tests.runtime.fakes import VOCAB, FakeExecutor, continuation, next_token

# The fake executor takes any ids below VOCAB; the tasks have the last of them.
FIRST = VOCAB - 30
TASKS = (Task("soft", "PROMPT_TUNING", FIRST, 5), Task("long", PREFIX, FIRST + 5, 25))
IDS: Mapping[str | None, list[int]] = {None: [], **{task.name: task.ids for task in TASKS}}
ROWS, LONGEST = 4, 100


def fake(rows: int = ROWS, limits: EngineLimits | None = None) -> tuple[Engine, FakeExecutor]:
    """An engine with tasks whose next token follows from all that the model was given."""
    executor = FakeExecutor()
    manifest = replace(
        MANIFEST,
        model={**MANIFEST.model, "vocab_size": FIRST},
        limits=limits or EngineLimits(rows, LONGEST, LONGEST),
        tokens=SpecialTokens(()),
        tasks=TASKS,
    )
    return Engine(Path("engine"), manifest, executor, None), executor


def test_the_model_is_given_the_virtual_tokens_and_the_result_is_not() -> None:
    engine, _ = fake()
    prompts, tasks = [[1, 2], [1, 2], [3], [4, 5, 6]], ["soft", None, "long", "soft"]
    found = engine.generate(prompts, task=tasks, max_new_tokens=6)
    assert found == [
        Completion("", prompt, "", continuation([*IDS[task], *prompt], 6), "length", task=task)
        for prompt, task in zip(prompts, tasks, strict=True)
    ]
    assert [each.to_json().get("task") for each in found] == tasks
    assert engine.generate([[1, 2]], task="soft", max_new_tokens=6) == found[:1]


def test_streams_and_submitted_requests_have_tasks_too() -> None:
    engine, _ = fake()
    expected = continuation([*IDS["long"], 1, 2], 5)
    pieces = list(engine.stream([1, 2], task="long", max_new_tokens=5))
    assert [piece.token_id for piece in pieces if piece.token_id is not None] == expected
    request = engine.submit([1, 2], task="long", max_new_tokens=5)
    while not engine.is_idle:
        engine.step()
    [submitted] = engine.completions(request)
    [awaited] = asyncio.run(engine.agenerate([1, 2], task="long", max_new_tokens=5))
    assert submitted == awaited == pieces[-1].completion
    assert (submitted.token_ids, submitted.task) == (expected, "long")


@given(seed=st.integers(0, 10**6), rows=st.sampled_from([1, 2, 4]))
@settings(max_examples=40)
def test_requests_of_mixed_tasks_get_what_they_get_alone(seed: int, rows: int) -> None:
    draw = random.Random(seed)
    engine, _ = fake(rows)
    wanted, requests, arriving = [], [], 10
    while arriving or not engine.is_idle:
        if arriving and draw.random() < 0.4:
            arriving -= 1
            task = draw.choice([None, "soft", "long"])
            prompt = [draw.randrange(FIRST) for _ in range(draw.randrange(1, 30))]
            count = draw.randrange(1, 10)
            wanted.append(continuation([*IDS[task], *prompt], count))
            priority = draw.choice([0, 0, 1])
            requests.append(engine.submit(prompt, task=task, max_new_tokens=count, priority=priority))
        engine.step()
    assert [engine.completions(request)[0].token_ids for request in requests] == wanted


def test_the_virtual_tokens_of_a_task_are_computed_once() -> None:
    engine, executor = fake(rows=2)
    engine.submit([1, 2], task="long", max_new_tokens=3)
    while not engine.is_idle:
        engine.step()
    executor.steps.clear()
    engine.submit([8, 9, 10], task="long", max_new_tokens=3)
    while not engine.is_idle:
        engine.step()
    assert len(IDS["long"]) >= LEAST_SHARED
    assert max(map(sum, executor.steps)) == 3


@pytest.mark.parametrize("changes", [{}, {"temperature": 1.0, "seed": 3, "n": 2}, {"num_beams": 3}])
def test_rules_over_logits_see_the_prompt_and_the_text_alone(changes: Mapping[str, Any]) -> None:
    engine, _ = fake()
    seen: list[list[int]] = []

    def look(token_ids: Any, logits: torch.Tensor) -> torch.Tensor:
        seen.append(list(map(int, token_ids)))
        return logits

    found = engine.generate([[1, 2, 3]], task="soft", max_new_tokens=4, logits_processors=[look], **changes)
    assert [1, 2, 3] in seen and all(ids[:3] == [1, 2, 3] and len(ids) <= 6 for ids in seen)
    assert all(each.prompt_ids == [1, 2, 3] and len(each.token_ids) == 4 for each in found)
    if "temperature" not in changes:
        assert found[0].token_ids == continuation([*IDS["soft"], 1, 2, 3], 4)


def test_a_token_of_the_virtual_ones_own_text_is_not_penalized() -> None:
    """A penalty on what was there before must not meet ids beyond the logits, nor change what a text gets."""
    engine, _ = fake()
    plain = engine.generate([[1, 2, 3]], task="long", max_new_tokens=5)
    penalized: dict[str, Any] = {
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 8,
        "frequency_penalty": 0.1,
        "min_length": 4,
    }
    assert engine.generate([[1, 2, 3]], task="long", max_new_tokens=5, **penalized) == plain


def test_max_length_counts_the_prompt_and_not_the_virtual_tokens() -> None:
    [found] = fake()[0].generate([[1, 2, 3]], task="long", max_length=7)
    assert len(found.token_ids) == 4


def test_the_log_probabilities_of_a_prompt_are_those_after_the_virtual_tokens() -> None:
    """Also where they are taken up in several chunks."""
    engine, executor = fake(limits=EngineLimits(ROWS, 200, 200))
    prompt = [(7 * i) % FIRST for i in range(120)]
    [found] = engine.generate([prompt], task="long", max_new_tokens=1, prompt_logprobs=1)
    assert found.prompt_logprobs is not None and len(executor.steps) > 2
    assert [each and each.token_id for each in found.prompt_logprobs] == [None, *prompt[1:]]
    likeliest = [each.top[0][0] for each in found.prompt_logprobs if each is not None]
    assert likeliest == [next_token([*IDS["long"], *prompt[:i]]) for i in range(1, len(prompt))]


@pytest.mark.parametrize(
    ("prompt", "task", "limits", "message", "hint"),
    [
        (
            [1] * 8, "soft", EngineLimits(2, 12, 40),
            r"prompt 1 has 8 tokens, with 5 virtual ones of the task 'soft' before them; the engine takes at most 12",
            "--max-input 13",
        ),
        (
            [1] * 8, "soft", EngineLimits(2, 13, 13), r"with 5 virtual ones .* which leaves no room for new ones",
            "--max-seq 17",
        ),
        ([1], "sofd", None, "the engine has no task 'sofd'; did you mean 'soft'", "its tasks are soft, long"),
        ([FIRST], "soft", None, rf"holds the token id {FIRST}; the model's ids are 0 to {FIRST - 1}", "tokenizer"),
        ([FIRST], None, None, rf"holds the token id {FIRST}; the model's ids are 0 to {FIRST - 1}", "tokenizer"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_runs(
    prompt: Sequence[int], task: str | None, limits: EngineLimits | None, message: str, hint: str
) -> None:
    engine, executor = fake(limits=limits)
    for ask in (engine.generate, lambda prompts, **how: engine.submit(prompts[0], **how)):
        with pytest.raises(RequestError, match=message) as raised:
            ask([prompt], task=task, max_new_tokens=4)
        assert hint in str(raised.value.hint)
    assert not executor.steps


def test_a_request_gets_the_room_that_virtual_tokens_leave() -> None:
    engine, _ = fake(limits=EngineLimits(2, 20, 20))
    notes: list[str] = []
    [found] = engine.generate([[1, 2, 3]], task="soft", max_new_tokens=50, note=notes.append)
    assert len(found.token_ids) == 20 - 5 - 3
    assert notes == ["prompt 1 gets at most 12 new tokens: the engine holds 20 tokens per sequence"]


def test_there_is_one_task_for_all_or_one_for_each() -> None:
    engine, _ = fake()
    with pytest.raises(RequestError, match="there are 2 prompts, but task is a list of 1"):
        engine.generate([[1], [2]], task=["soft"])
    with pytest.raises(RequestError, match="there are 2 prompts, but task is 3"):
        engine.generate([[1], [2]], task=3)  # type: ignore[arg-type]


def test_an_engine_without_tasks_says_how_it_gets_some() -> None:
    engine = Engine(Path("engine"), MANIFEST, FakeExecutor(), None)
    with pytest.raises(RequestError, match="the engine has no task 'soft'") as raised:
        engine.generate([[1]], task="soft")
    assert "--prompts TASK=DIR" in str(raised.value.hint)


KINDS = {"soft": ("PROMPT_TUNING", 5), "prefix": (PREFIX, 17), "encoded": ("P_TUNING", 3)}
ENGINES: Mapping[str, tuple[str, str, str]] = {
    "torch": ("gptneox", "", "torch"),
    "paged": ("mpt", "cache=paged:block=8", "torch"),
    "interpreter": ("opt", "", "interpreter"),
    "emulator": ("gptj", "", "emulator"),
}
REQUESTS: Sequence[tuple[str | None, list[int]]] = (
    ("soft", [7, 8, 9, 300]), (None, [5, 6]), ("prefix", [900, 3, 4, 8]), ("encoded", [4]), ("prefix", [7, 8, 9, 300]),
)  # fmt: skip


def values_of(task: str | None) -> tuple[Any, Any]:
    """The kind of a task, and its table."""
    return (KINDS[task][0], table(*KINDS[task])) if task is not None else (None, None)


def compiled(folder: Path, family: str, passes: str, target: str, **options: Any) -> Path:
    """An engine of a bundled checkpoint with the tasks of `KINDS`."""
    prompts = {name: adapter(folder / f"adapter-{name}", kind, tokens) for name, (kind, tokens) in KINDS.items()}
    sizes: Any = {"dtype": "float32", "max_batch": 4, "max_input": 32, "max_seq": 48}
    return llmc.compile(
        MODELS / f"{family}-tiny", folder / "engine", passes=passes, prompts=prompts, target=target, **sizes, **options
    ).path


@pytest.mark.parametrize("name", ENGINES)
def test_tokens_and_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    family, passes, executor = ENGINES[name]
    if executor == "emulator":
        pytest.importorskip("tensorrt_rtx")
    target = "tensorrt-rtx" if executor == "emulator" else "torch"
    engine = llmc.load(compiled(tmp_path, family, passes, target), executor=executor)
    model = bundled(family)
    found = engine.generate(
        [prompt for _, prompt in REQUESTS], task=[task for task, _ in REQUESTS], max_new_tokens=6, ignore_eos=True
    )
    for (task, prompt), completion in zip(REQUESTS, found, strict=True):
        assert completion.token_ids == greedy(model, prompt, 6, *values_of(task))
        expected = logits(model, prompt, *values_of(task))
        torch.testing.assert_close(engine.logits(prompt, task), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("passes", ["kv=int8", "kv=fp8,cache=paged:block=16", "quant=int8,kv=int8"])
def test_quantized_engines_are_as_exact_after_virtual_tokens_as_without(tmp_path: Path, passes: str) -> None:
    calibration = {"calib_samples": 4, "calib_length": 32}
    engine = llmc.load(compiled(tmp_path, "opt", passes, "torch", **calibration), executor="torch")
    prompt = [7, 8, 9, 300, 40, 2]

    def error(task: str | None) -> float:
        expected = logits(bundled("opt"), prompt, *values_of(task))
        return float((engine.logits(prompt, task) - expected).norm() / expected.norm())

    plain = error(None)
    assert 0 < plain < 0.05
    assert max(error("soft"), error("encoded"), error("prefix")) < 4 * plain


def test_engines_say_what_tasks_they_have(tmp_path: Path) -> None:
    engine = llmc.load(compiled(tmp_path, "opt", "", "torch"))
    assert engine.manifest.tasks == (
        Task("soft", "PROMPT_TUNING", 1024, 5), Task("encoded", "P_TUNING", 1029, 3), Task("prefix", PREFIX, 1032, 17),
    )  # fmt: skip
    assert "tasks" not in engine.manifest.model
    assert engine.manifest.task(None) is None
