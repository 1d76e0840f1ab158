"""Generation over an executor whose answers are known."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import RequestError
from runtime.generation.generate import generate
from runtime.generation.requests import Request
from runtime.generation.sampling import Greedy
from tests.runtime.fakes import VOCAB, FakeExecutor, continuation, next_token

tokens = st.integers(0, VOCAB - 1)
prompts = st.lists(tokens, min_size=1, max_size=12)


def run(requests, *, batch, stop=frozenset(), executor=None):
    return generate(executor or FakeExecutor(), requests, batch=batch, stop_ids=stop)[0]


@given(
    st.lists(st.tuples(prompts, st.integers(1, 9)), min_size=1, max_size=12),
    st.integers(1, 5),
    st.frozensets(tokens, max_size=20),
)
def test_every_request_gets_what_it_gets_alone(given_, batch, stop) -> None:
    requests = [Request(tuple(prompt), count) for prompt, count in given_]
    for request, result in zip(requests, run(requests, batch=batch, stop=stop), strict=True):
        expected = continuation(request.token_ids, request.max_new_tokens, tuple(stop))
        assert result.token_ids == expected
        assert result.finish_reason == ("stop" if expected[-1] in stop else "length")


def test_results_come_in_the_order_of_the_requests_whatever_it_is() -> None:
    draw = random.Random(0)
    requests = [Request(tuple(draw.choices(range(VOCAB), k=draw.randint(1, 9))), draw.randint(1, 9)) for _ in range(20)]
    expected = [result.token_ids for result in run(requests, batch=4)]
    order = draw.sample(range(20), 20)
    shuffled = run([requests[i] for i in order], batch=4)
    assert [result.token_ids for result in shuffled] == [expected[i] for i in order]


def test_a_batch_is_ragged_and_padded_on_the_right() -> None:
    executor = FakeExecutor()
    run([Request((1, 2, 3), 2), Request((4,), 2)], batch=8, executor=executor)
    assert executor.opened == [(2, 5)]
    assert executor.steps == [[3, 1], [1, 1]]


def test_a_slot_is_reused_when_its_request_ends() -> None:
    executor = FakeExecutor()
    requests = [Request((1,), 1), Request((2,), 4), Request((3, 3), 1), Request((4,), 1)]
    results = run(requests, batch=2, executor=executor)
    # The first slot serves the first, third and fourth request; the second goes on meanwhile.
    assert executor.opened == [(2, 5)]
    assert executor.steps == [[1, 1], [2, 1], [1, 1], [0, 1]]
    assert [result.token_ids for result in results] == [continuation(r.token_ids, r.max_new_tokens) for r in requests]


def test_prompts_wait_until_enough_slots_are_free() -> None:
    executor = FakeExecutor()
    requests = [Request((i,), count) for i, count in enumerate((1, 3, 3, 3, 1, 1))]
    run(requests, batch=4, executor=executor)
    assert executor.steps == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 0, 0]]


def test_tokens_are_reported_as_they_come() -> None:
    seen: list[tuple[int, int]] = []
    requests = [Request((1,), 2), Request((2,), 2)]
    results, _ = generate(FakeExecutor(), requests, batch=2, on_token=lambda i, token: seen.append((i, token)))
    first, second = (result.token_ids for result in results)
    assert seen == [(0, first[0]), (1, second[0]), (0, first[1]), (1, second[1])]


def test_timings_count_tokens_by_phase() -> None:
    _, timings = generate(FakeExecutor(), [Request((1, 2, 3), 3), Request((4,), 3)], batch=2)
    assert (timings.prefill_tokens, timings.decode_tokens, timings.steps) == (4, 4, 3)
    assert timings.prefill_seconds > 0
    assert timings.decode_rate == pytest.approx(4 / timings.decode_seconds)


def test_no_requests_open_no_session() -> None:
    executor = FakeExecutor()
    assert run([], batch=2, executor=executor) == []
    assert executor.opened == []


@pytest.mark.parametrize("height", [math.inf, math.nan])
def test_logits_that_overflow_are_an_error_that_names_the_prompt(height: float) -> None:
    with pytest.raises(RequestError) as raised:
        run([Request((1,), 1)], batch=1, executor=FakeExecutor(height))
    assert raised.value.message.startswith("the model's logits for prompt 1 are not finite")
    assert "--dtype" in (raised.value.hint or "")


def test_rows_without_a_request_may_hold_anything() -> None:
    logits = torch.tensor([[math.nan, 0.0], [0.0, 1.0]])
    assert Greedy().choose(logits, [None, 3])[1] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [5, 1024, 50272])
def test_greedy_takes_the_first_of_equal_logits_as_argmax_does(dtype: torch.dtype, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (8, vocabulary), generator=generator).to(dtype)
    first = [int((row == row.max()).nonzero()[0]) for row in logits]
    assert Greedy().choose(logits, list(range(8))) == first == logits.argmax(-1).tolist()


def test_the_fake_depends_on_order() -> None:
    assert next_token([1, 2]) != next_token([2, 1])
