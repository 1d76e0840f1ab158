"""Steps of a TensorRT engine: which plan runs which rows, how caches grow, and what is captured."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import EngineError, RequestError
from compiler.ir.step import Step
from runtime.generation.generate import generate
from runtime.generation.requests import Request
from tests.runtime.executors.tensorrt.fake_engine import (
    BATCH,
    CAPACITY,
    INPUT,
    SPLIT,
    UNIT,
    FakeBackend,
    FakeContext,
    decode,
    dynamic,
    fake_executor,
    fake_record,
    prefill,
)
from tests.runtime.fakes import VOCAB, continuation, next_token


def i32(*values):
    return torch.tensor(values, dtype=torch.int32)


def rows(*prompts):
    width = max(map(len, prompts))
    return i32(*(list(p) + [0] * (width - len(p)) for p in prompts))


def chosen(logits):
    return logits.argmax(-1).tolist()


def step(session, past, *prompts, positions=None):
    """Give each row its tokens; the logits of its last, or of `positions`, as tokens."""
    counts = [len(prompt) for prompt in prompts]
    wanted = positions or [[max(count - 1, 0)] for count in counts]
    return chosen(session.step(Step(rows(*prompts), i32(*past), i32(*counts), i32(*wanted))))


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12), st.integers(1, 4)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, BATCH),
    st.booleans(),
    st.sampled_from([SPLIT, [dynamic()], [dynamic(8), *SPLIT], [decode(1, CAPACITY), decode(BATCH, CAPACITY)]]),
)
def test_generation_gives_every_request_what_it_gets_alone(requests, batch, captures, plans) -> None:
    executor = fake_executor(FakeBackend(captures=captures), plans)
    results, _ = generate(executor, [Request(tuple(p), n) for p, n in requests], batch=batch)
    for (prompt, count), result in zip(requests, results, strict=True):
        assert result.token_ids == continuation(prompt, count)


def test_rows_of_one_token_run_together_and_first_the_others_alone() -> None:
    backend = FakeBackend()
    session = fake_executor(backend).open(4, 8)
    first = step(session, [0, 0, 0, 0], [1, 2, 3], [7], [], [4, 5])
    assert first[:2] == [[next_token([1, 2, 3])], [next_token([7])]]
    assert first[3] == [next_token([4, 5])]
    assert backend.runs == [("decode-b4-c8", (4, 1)), ("prefill-s3-c8", (1, 3)), ("prefill-s3-c8", (1, 3))]
    second = step(session, [3, 1, 0, 2], [4], [8, 9], [], [])
    assert second[:2] == [[next_token([1, 2, 3, 4])], [next_token([7, 8, 9])]]
    # The last row had nothing to do in a run over all rows, which wrote beyond its tokens; now it goes on.
    assert step(session, [4, 3, 0, 2], [], [], [], [6])[3] == [next_token([4, 5, 6])]


def test_a_batch_is_padded_to_the_next_size_that_a_plan_has() -> None:
    backend = FakeBackend()
    session = fake_executor(backend).open(2, 8)
    logits = session.step(Step(rows([1], [2]), i32(0, 0), i32(1, 1), i32([0], [0])))
    assert logits.shape == (2, 1, VOCAB)
    assert logits.max() == UNIT
    assert backend.runs == [("decode-b4-c8", (4, 1))]


def test_several_logits_a_row() -> None:
    session = fake_executor(FakeBackend()).open(2, 8)
    after = [next_token([5]), next_token([5, 6]), next_token([5, 6, 7])]
    # The second row has one token: wherever its logits are wanted, they are that token's.
    logits = step(session, [0, 0], [5, 6, 7], [9], positions=[[2, 0, 1, 1], [0, 1, 2, 2]])
    assert logits == [[after[2], after[0], after[1], after[1]], [next_token([9])] * 4]
    assert step(session, [3, 1], [1], [2], positions=[[0, 0], [0, 0]])[1] == [next_token([9, 2])] * 2


def test_positions_beyond_a_rows_tokens_give_its_last() -> None:
    session = fake_executor(FakeBackend()).open(2, 8)
    logits = step(session, [0, 0], [1, 2, 3], [4, 5], positions=[[1, 2], [1, 2]])
    assert logits[1] == [next_token([4, 5])] * 2


def test_a_prompt_that_is_wider_than_the_plans_runs_in_pieces_of_which_the_last_is_padded() -> None:
    backend = FakeBackend()
    prompt = list(range(20, 34))
    session = fake_executor(backend).open(1, CAPACITY)
    assert step(session, [0], prompt) == [[next_token(prompt)]]
    assert sorted(shape for _, shape in backend.runs) == [(1, 3), (1, 6), (1, 6)]
    # The padding lies where the next tokens go; theirs is beyond the caches' end.
    assert step(session, [14], [7, 8]) == [[next_token([*prompt, 7, 8])]]
    assert backend.runs[-1] == ("prefill-s3-c16", (1, 3))


def test_where_several_logits_are_wanted_plans_run_that_give_as_many() -> None:
    backend = FakeBackend()
    prompt = list(range(20, 32))
    wanted = [11, 0, 1, 7, 8, 8]
    logits = step(fake_executor(backend).open(1, CAPACITY), [0], prompt, positions=[wanted])
    assert logits == [[next_token(prompt[: p + 1]) for p in wanted]]
    assert sum(shape[1] for _, shape in backend.runs) == 12
    backend.runs.clear()
    everything = [list(range(12))]
    logits = step(fake_executor(backend).open(1, CAPACITY), [0], prompt, positions=everything)
    assert logits == [[next_token(prompt[: n + 1]) for n in range(12)]]
    assert [shape for _, shape in backend.runs] == [(1, 3)] * 4


def test_plans_of_one_token_give_the_logits_that_the_others_cannot() -> None:
    backend = FakeBackend()
    plans = [decode(1, 8), prefill(INPUT, 8)]
    logits = step(fake_executor(backend, plans).open(1, 8), [0], [5, 6, 7], positions=[[0, 1, 2]])
    assert logits == [[next_token([5]), next_token([5, 6]), next_token([5, 6, 7])]]
    assert ("decode-b1-c8", (1, 1)) in backend.runs


def test_caches_grow_with_the_longest_sequence_and_keep_what_is_in_them() -> None:
    backend = FakeBackend(captures=True)
    session = fake_executor(backend).open(2, CAPACITY)
    step(session, [0, 0], [1, 2, 3, 4, 5], [9])
    tokens = [1, 2, 3, 4, 5]
    for past in range(5, CAPACITY):
        assert step(session, [past, past - 4], [past], [past]) == [
            [next_token([*tokens, past])],
            [next_token([9, *range(5, past + 1)])],
        ]
        tokens.append(past)
    assert Counter(backend.contexts) == Counter(
        [("decode-b4-c8", True), ("prefill-s3-c8", True), ("prefill-s6-c8", True), ("decode-b4-c16", True)]
    )


def test_a_long_prompt_goes_into_larger_caches_at_once() -> None:
    backend = FakeBackend()
    prompt = list(range(5))
    session = fake_executor(backend).open(1, CAPACITY)
    step(session, [0], prompt)
    assert step(session, [5], [5, 6, 7, 8]) == [[next_token(range(9))]]
    assert [name for name, _ in backend.runs] == ["prefill-s6-c8", "prefill-s6-c16"]


def test_a_full_row_without_new_tokens_does_not_stop_the_others() -> None:
    session = fake_executor(FakeBackend()).open(2, CAPACITY)
    step(session, [0, 0], list(range(CAPACITY)), [])
    assert step(session, [CAPACITY, 0], [], [9])[1] == [next_token([9])]


@pytest.mark.parametrize("others", [[[9], []], [[9, 8, 7], []], [[9], [8, 7, 6]]], ids=["one", "several", "both"])
def test_rows_without_new_tokens_keep_their_caches_whatever_past_they_are_given(others: list[list[int]]) -> None:
    session = fake_executor(FakeBackend()).open(3, CAPACITY)
    step(session, [0, 0, 0], [1, 2, 3], [], [])
    step(session, [0, 0, 0], [], *others)
    assert step(session, [3, 0, 0], [4], [], [])[0] == [next_token([1, 2, 3, 4])]


def test_a_slot_is_reused() -> None:
    session = fake_executor(FakeBackend()).open(1, CAPACITY)
    for prompt in ([1, 2, 3, 4], [5, 6], [7]):
        assert step(session, [0], prompt) == [[next_token(prompt)]]


def test_contexts_that_a_session_starts_with_are_made_when_it_is_opened_and_once() -> None:
    backend = FakeBackend()
    executor = fake_executor(backend)
    assert backend.contexts == []
    executor.open(1, CAPACITY)
    executor.open(1, 8)
    assert backend.contexts == [("decode-b1-c8", True), ("prefill-s3-c8", True), ("prefill-s6-c8", True)]


def test_one_plan_does_everything_with_a_context_for_each_profile() -> None:
    backend = FakeBackend()
    session = fake_executor(backend, [dynamic()]).open(2, 10)
    assert step(session, [0, 0], [1, 2], [3]) == [[next_token([1, 2])], [next_token([3])]]
    assert backend.runs == [("all-c16", (2, 1)), ("all-c16", (1, 2))]
    assert backend.contexts == [("all-c16", True), ("all-c16", False)]


def count_up(session, past, count):
    """Give every row the tokens `past`, `past` + 1, ...; the tokens chosen after each."""
    return [step(session, [at] * session.batch, *[[at]] * session.batch) for at in range(past, past + count)]


def test_decoding_is_captured_at_its_second_step_and_run_again_from_then_on() -> None:
    backend = FakeBackend(captures=True)
    session = fake_executor(backend).open(2, 8)
    assert count_up(session, 0, 4) == [[[next_token(range(n))]] * 2 for n in range(1, 5)]
    assert (backend.stream.captured, backend.stream.replayed, len(backend.runs)) == (1, 3, 1)
    step(session, [4, 4], [4, 5], [4, 5])  # another plan's context
    assert count_up(session, 6, 2) == [[[next_token(range(n))]] * 2 for n in (7, 8)]
    assert (backend.stream.captured, backend.stream.replayed) == (1, 5)


def test_a_capture_is_not_replayed_after_its_context_served_another_session() -> None:
    backend = FakeBackend(captures=True)
    executor = fake_executor(backend)
    one, two = executor.open(1, 8), executor.open(1, 8)
    count_up(one, 0, 3)
    count_up(two, 0, 1)
    assert count_up(one, 3, 3) == [[[next_token(range(n))]] for n in range(4, 7)]
    assert backend.stream.captured == 2


def test_larger_caches_need_a_new_capture() -> None:
    backend = FakeBackend(captures=True)
    session = fake_executor(backend).open(1, CAPACITY)
    assert count_up(session, 0, 12) == [[[next_token(range(n))]] for n in range(1, 13)]
    assert (backend.stream.captured, len(backend.runs)) == (2, 2)


def test_only_decoding_is_captured_and_not_if_that_is_turned_off() -> None:
    backend = FakeBackend(captures=True)
    session = fake_executor(backend, [dynamic()]).open(1, CAPACITY)
    for past in (0, 2, 4):
        step(session, [past], [1, 2])
    count_up(fake_executor(backend, cuda_graphs=False).open(1, CAPACITY), 0, 4)
    assert backend.stream.captured == 0


def test_inputs_that_the_network_does_not_use_are_left_out() -> None:
    backend = FakeBackend()
    record = fake_record(8, ((1, 1), (1, INPUT), (1, INPUT)), drop=("new_len",))
    assert step(fake_executor(backend, [("small", record)]).open(1, 4), [0], [5, 6]) == [[next_token([5, 6])]]


def test_room_is_for_the_largest_caches_and_the_contexts_that_are_still_to_be_made() -> None:
    backend = FakeBackend()
    executor = fake_executor(backend)
    executor.open(2, CAPACITY)
    assert backend.room == [(BATCH * 3 * CAPACITY * 4, 6 * 1000)]
    executor.open(3, 8)
    assert backend.room[1] == (BATCH * 3 * 8 * 4, 0)


def test_limits_are_checked() -> None:
    executor = fake_executor(FakeBackend())
    with pytest.raises(RequestError, match=r"5 sequences of 8 tokens .* built for 1 to 1 sequences of 8 tokens"):
        executor.open(5, 8)
    with pytest.raises(RequestError, match=r"1 sequences of 17 tokens .*; 4 to 4 sequences of 16 tokens"):
        executor.open(1, 17)
    with pytest.raises(RequestError, match="0 tokens per sequence were asked for; there must be at least 1"):
        executor.open(1, 0)
    session = executor.open(2, 8)
    with pytest.raises(RequestError, match="a sequence grew to 9 tokens; the caches hold 8"):
        step(session, [0, 7], [1], [1, 2])


def test_a_step_that_no_plan_covers_is_refused_with_the_sizes() -> None:
    wide = ("wide", fake_record(8, ((2, 2), (1, INPUT), (1, INPUT))))
    with pytest.raises(RequestError) as raised:
        fake_executor(FakeBackend(), [wide]).open(2, 8)
    assert "runs a row alone with caches of 8 tokens" in raised.value.message
    assert "2 to 2 sequences of 8 tokens, 6 at a time (wide)" in raised.value.message


def test_what_tensorrt_reports_is_in_the_message(monkeypatch) -> None:
    monkeypatch.setattr(FakeContext, "execute_async_v3", lambda self, stream_handle: False)
    session = fake_executor(FakeBackend()).open(1, 4)
    with pytest.raises(EngineError, match="did not run a step: Error Code 3: out of luck"):
        step(session, [0], [1])
