"""Steps of a TensorRT engine: which profile takes them, where the tensors lie, and what happens near the end."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import EngineError, RequestError
from runtime.generate import generate
from runtime.requests import Request
from tests.runtime.fakes import VOCAB, continuation, next_token
from tests.runtime.tensorrt_executor.fake_engine import (
    BATCH,
    CACHE,
    CAPACITY,
    DECODE,
    INPUT,
    SHAPES,
    FakeBackend,
    FakeContext,
    FakeEngine,
    fake_executor,
)


def i32(*values):
    return torch.tensor(values, dtype=torch.int32)


def rows(*prompts):
    width = max(map(len, prompts))
    return i32(*(list(p) + [0] * (width - len(p)) for p in prompts))


def chosen(logits):
    return logits.argmax(-1).tolist()


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=INPUT), st.integers(1, CAPACITY - INPUT)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, BATCH),
    st.booleans(),
)
def test_generation_gives_every_request_what_it_gets_alone(requests, batch, records) -> None:
    executor = fake_executor(FakeBackend(records=records))
    results, _ = generate(executor, [Request(tuple(p), n) for p, n in requests], batch=batch)
    for (prompt, count), result in zip(requests, results, strict=True):
        assert result.token_ids == continuation(prompt, count)


def test_a_step_is_ragged_and_its_padding_is_overwritten() -> None:
    session = fake_executor(FakeBackend()).open(2, 10)
    first = session.step(rows([1, 2, 3], [7]), i32(0, 0), i32(3, 1), i32([2], [0]))
    assert chosen(first) == [[next_token([1, 2, 3])], [next_token([7])]]
    second = session.step(rows([4], [8, 9]), i32(3, 1), i32(1, 2), i32([0], [1]))
    assert chosen(second) == [[next_token([1, 2, 3, 4])], [next_token([7, 8, 9])]]


def test_several_logits_a_row() -> None:
    logits = fake_executor(FakeBackend()).open(1, 4).step(rows([5, 6, 7]), i32(0), i32(3), i32([0, 1, 2]))
    assert chosen(logits) == [[next_token([5]), next_token([5, 6]), next_token([5, 6, 7])]]


def test_the_first_profile_that_takes_a_step_is_used_and_keeps_its_context() -> None:
    backend = FakeBackend()
    session = fake_executor(backend).open(1, 10)
    session.step(rows([1, 2]), i32(0), i32(2), i32([1]))
    for past in (2, 3):
        session.step(rows([3]), i32(past), i32(1), i32([0]))
    session.step(rows([4, 5]), i32(4), i32(2), i32([1]))
    assert [profile for profile, _ in backend.engine.runs] == [1, 0, 0, 1]
    assert backend.contexts == [(1, False), (0, True)]


def test_rows_run_alone_when_a_row_has_no_room_for_the_padding_of_another() -> None:
    backend = FakeBackend()
    session = fake_executor(backend).open(3, CAPACITY)
    near_end = [i % VOCAB for i in range(CAPACITY - 1)]
    for start in range(0, CAPACITY - 1, 5):
        part = near_end[start : start + 5]
        session.step(rows(part, [0], [0]), i32(start, 0, 0), i32(5, 0, 0), i32([4], [0], [0]))
    backend.engine.runs.clear()
    logits = session.step(rows([50], [60, 61, 62], []), i32(CAPACITY - 1, 0, 4), i32(1, 3, 0), i32([0], [2], [0]))
    assert chosen(logits)[:2] == [[next_token([*near_end, 50])], [next_token([60, 61, 62])]]
    assert backend.engine.runs == [(0, (1, 1)), (1, (1, 3))]
    # What the rows wrote alone is in the caches of the batch: the second row goes on there.
    session.step(rows([], [63], []), i32(0, 3, 0), i32(0, 1, 0), i32([0], [0], [0]))
    after = session.step(rows([], [64], []), i32(0, 4, 0), i32(0, 1, 0), i32([0], [0], [0]))
    assert chosen(after)[1] == [next_token([60, 61, 62, 63, 64])]


def test_positions_in_the_padding_are_harmless_when_rows_run_alone() -> None:
    session = fake_executor(FakeBackend()).open(2, CAPACITY)
    logits = session.step(rows([1], [2, 3]), i32(CAPACITY - 1, 0), i32(1, 2), i32([0, 1], [0, 1]))
    assert chosen(logits)[1] == [next_token([2]), next_token([2, 3])]


def test_a_full_row_without_new_tokens_does_not_stop_the_others() -> None:
    session = fake_executor(FakeBackend()).open(2, CAPACITY)
    logits = session.step(rows([], [9]), i32(CAPACITY, 0), i32(0, 1), i32([0], [0]))
    assert chosen(logits)[1] == [next_token([9])]


def test_a_slot_is_reused() -> None:
    session = fake_executor(FakeBackend()).open(1, CAPACITY)
    for prompt in ([1, 2, 3, 4], [5, 6]):
        logits = session.step(rows(prompt), i32(0), i32(len(prompt)), i32([len(prompt) - 1]))
        assert chosen(logits) == [[next_token(prompt)]]


def decode(session, past, count):
    """Give every row the tokens `past`, `past` + 1, ...; returns the tokens chosen after each."""
    batch = session.batch
    return [
        chosen(session.step(i32(*[[at]] * batch), i32(*[at] * batch), i32(*[1] * batch), i32(*[[0]] * batch)))
        for at in range(past, past + count)
    ]


def test_decoding_is_recorded_at_its_second_step_and_run_again_from_then_on() -> None:
    backend = FakeBackend(records=True)
    session = fake_executor(backend).open(2, CAPACITY)
    assert decode(session, 0, 5) == [[[next_token(range(n))]] * 2 for n in range(1, 6)]
    assert (backend.stream.captured, backend.stream.replayed, len(backend.engine.runs)) == (1, 4, 1)
    session.step(rows([1, 2], [3]), i32(5, 5), i32(2, 1), i32([1], [0]))  # another profile's context
    decode(session, 7, 2)
    assert (backend.stream.captured, backend.stream.replayed) == (1, 6)


def test_a_record_is_not_run_again_after_its_context_served_another_session() -> None:
    backend = FakeBackend(records=True)
    executor = fake_executor(backend)
    one, two = executor.open(1, CAPACITY), executor.open(2, CAPACITY)
    decode(one, 0, 3)
    decode(two, 0, 1)
    assert decode(one, 3, 3) == [[[next_token(range(n))]] for n in range(4, 7)]
    assert backend.stream.captured == 2


def test_a_single_profile_is_recorded_for_steps_of_one_token_only() -> None:
    backend = FakeBackend(FakeEngine([SHAPES]), records=True)
    session = fake_executor(backend).open(1, CAPACITY)
    for past in (0, 2, 4):
        session.step(rows([1, 2]), i32(past), i32(2), i32([1]))
    assert backend.stream.captured == 0


def test_recording_can_be_turned_off() -> None:
    backend = FakeBackend(records=True)
    decode(fake_executor(backend, cuda_graphs=False).open(1, CAPACITY), 0, 4)
    assert backend.stream.captured == 0


def test_inputs_that_the_network_does_not_use_are_left_out() -> None:
    profiles = [{name: p[name] for name in p if name != "new_len"} for p in (DECODE, SHAPES)]
    backend = FakeBackend(FakeEngine(profiles))
    assert "new_len" not in backend.engine.names
    logits = fake_executor(backend).open(1, 4).step(rows([5, 6]), i32(0), i32(2), i32([1]))
    assert chosen(logits) == [[next_token([5, 6])]]


def test_limits_are_checked() -> None:
    backend = FakeBackend()
    executor = fake_executor(backend)
    with pytest.raises(RequestError, match="4 sequences were asked for; the engine is built for 1 to 3"):
        executor.open(4, 8)
    with pytest.raises(RequestError, match="17 tokens a sequence were asked for; the engine is built for 1 to 16"):
        executor.open(1, 17)
    session = executor.open(2, 8)
    assert backend.room == [2 * 3 * 16 * 4]
    with pytest.raises(RequestError, match="a sequence grew to 9 tokens; the caches hold 8"):
        session.step(rows([1], [1, 2]), i32(0, 7), i32(1, 2), i32([0], [1]))


def test_a_step_that_no_profile_takes_is_refused_with_the_sizes() -> None:
    session = fake_executor(FakeBackend()).open(1, CAPACITY)
    with pytest.raises(RequestError) as raised:
        session.step(rows(range(9)), i32(0), i32(9), i32([8]))
    assert "token_ids [1, 9]" in raised.value.message
    assert "token_ids [3, 8]" in raised.value.message


def test_what_tensorrt_reports_is_in_the_message(monkeypatch) -> None:
    monkeypatch.setattr(FakeContext, "execute_async_v3", lambda self, stream_handle: False)
    session = fake_executor(FakeBackend()).open(1, 4)
    with pytest.raises(EngineError, match="did not run a step: Error Code 3: out of luck"):
        session.step(rows([1]), i32(0), i32(1), i32([0]))


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (FakeEngine(dtypes={"past_len": "FLOAT"}), "the input 'past_len' is not of type INT32"),
        (FakeEngine(dtypes={CACHE: "FP4"}), "'cache.0.k' has the type FP4"),
        (FakeEngine([{**SHAPES, "pixels": ((1,), (1,))}]), "has an input 'pixels'"),
        (FakeEngine(aliases={}), "has an input 'cache.0.k' that is no cache"),
        (FakeEngine([{name: SHAPES[name] for name in SHAPES if name != "token_ids"}]), "has no 'token_ids'"),
    ],
)
def test_engines_of_others_are_refused(engine, message) -> None:
    with pytest.raises(EngineError, match=message) as raised:
        fake_executor(FakeBackend(engine))
    assert "rank0.engine" in raised.value.message
