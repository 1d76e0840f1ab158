"""A long step that runs in chunks gives the logits that it gives as a whole."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.ir.chunks import chunks, in_chunks
from compiler.ir.step import Step
from tests.runtime.fakes import VOCAB, FakeExecutor

rows = st.tuples(st.integers(0, 9), st.integers(0, 12))  # tokens in the caches, and new ones


def i32(values):
    return torch.tensor(values, dtype=torch.int32)


@st.composite
def steps(draw):
    """A ragged step, with padding at its end, that wants any positions in any order; and its first tokens."""
    counts = draw(st.lists(rows, min_size=1, max_size=4).filter(lambda rows: any(new for _, new in rows)))
    past, new = map(list, zip(*counts, strict=True))
    length, wanted = max(new) + draw(st.integers(0, 3)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    ids = torch.randint(VOCAB, (len(past), length), generator=generator, dtype=torch.int32)
    positions = torch.randint(length, (len(past), wanted), generator=generator, dtype=torch.int32)
    before = torch.randint(VOCAB, (len(past), max(1, *past)), generator=generator, dtype=torch.int32)
    return Step(ids, i32(past), i32(new), positions), before


def session_after(before, past):
    """A fake session with tokens in its caches, and what it was asked for since."""
    executor = FakeExecutor()
    session = executor.open(len(past), 40)
    if past.any():
        session.step(Step(before, torch.zeros_like(past), past, torch.zeros_like(past)[:, None]))
    executor.steps.clear()
    return session, executor.steps


@given(steps(), st.integers(1, 20))
def test_chunks_give_what_the_whole_gives(drawn, length):
    step, before = drawn
    whole, _ = session_after(before, step.past_len)
    cut, asked = session_after(before, step.past_len)
    expected = whole.step(step)
    found = in_chunks(step, length, cut.step)
    assert found.shape == expected.shape
    real = step.logit_pos < step.new_len[:, None]
    assert torch.equal(found[real], expected[real])
    assert torch.equal(whole.cache, cut.cache)
    assert torch.tensor(asked).sum(0).tolist() == step.new_len.tolist()
    short = step.token_ids.shape[1] <= length
    assert len(asked) == (1 if short else -(-int(step.new_len.max()) // length))


@given(steps(), st.integers(1, 20))
def test_a_chunk_wants_as_few_logits_as_it_can(drawn, length):
    step, _ = drawn
    for chunk in chunks(step, length):
        assert chunk.step.token_ids.shape[1] <= length
        assert chunk.step.logit_pos.shape[1] == max(1, int(torch.bincount(chunk.rows, minlength=1).max()))
        assert chunk.step.token_ids.is_contiguous()


def test_a_step_that_is_short_enough_is_passed_on_as_it_is():
    step = Step(i32([[1, 2]]), i32([0]), i32([2]), i32([[1]]))
    passed = []

    def run(part):
        passed.append(part)
        return torch.zeros(1, 1, VOCAB)

    in_chunks(step, 2, run)
    assert passed[0] is step
