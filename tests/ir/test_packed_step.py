"""Packed steps: tokens without padding, and the blocks that their sequences are in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import RequestError
from compiler.ir.packed_step import PackedStep, SequenceStep, Span
from tests.paged_schedules import packed_steps, schedules

TWO = PackedStep.of([SequenceStep(0, [5, 6, 7], [2, 0]), SequenceStep(4, [8], [1, 3, 4], [0])])


def test_tokens_lie_one_after_the_other():
    assert TWO.token_ids.tolist() == [5, 6, 7, 8]
    assert TWO.token_positions.tolist() == [0, 1, 2, 4]
    assert TWO.token_rows.tolist() == [0, 0, 0, 1]
    assert TWO.block_tables.tolist() == [[2, 0, -1], [1, 3, 4]]
    assert TWO.logit_pos.tolist() == [2, 3]
    assert all(tensor.dtype == torch.int32 for tensor in TWO)
    TWO.check(2, 5)
    assert TWO.spans() == [Span(0, 0, 3, 0), Span(1, 3, 4, 4)]


@given(schedules())
def test_a_step_is_the_same_after_it_was_sent(schedule):
    for step in packed_steps(schedule, 31):
        received = PackedStep.unpacked(np.concatenate([np.asarray(part, dtype=np.int32) for part in step.packed()]))
        assert all(map(torch.equal, received, step))


@given(schedules(), st.data())
def test_parts_have_all_tokens_and_all_wanted_logits(schedule, data):
    for step in packed_steps(schedule, 31):
        step = step._replace(logit_pos=step.logit_pos[torch.randperm(step.wanted)])
        cut = data.draw(st.integers(0, step.tokens))
        parts = [step.part(*bounds) for bounds in ((0, cut), (cut, step.tokens)) if bounds[0] < bounds[1]]
        for name in ("token_ids", "token_positions", "token_rows"):
            assert torch.equal(torch.cat([getattr(part, name) for part, _ in parts]), getattr(step, name))
        logits = torch.full((step.wanted,), -1, dtype=torch.int32)
        start = 0
        for part, asked in parts:
            assert part.wanted == max(1, len(asked))
            logits[asked] = part.logit_pos[: len(asked)] + start
            start += part.tokens
        assert torch.equal(logits, step.logit_pos)


def of(*sequences):
    return PackedStep.of([SequenceStep(*each) for each in sequences])


FAULTS = {
    "no tokens": (of((0, [], [0], [])), "has 0 tokens"),
    "a table that is too short": (of((3, [1, 2], [0])), "grows from 3 to 5 tokens; it has 1 blocks, which hold 4"),
    "a block that is none": (of((0, [1], [5])), "is in block 5; the blocks are 0 to 4"),
    "a block before the first": (of((0, [1], [-2])), "is in block -2"),
    "a block with two writers": (of((0, [1], [3]), (4, [1], [0, 3])), "sequences 0 and 1 would be written to block 3"),
    "a block twice in a sequence": (of((4, [1], [2, 2])), "would be written to block 2"),
    "a logit of no token": (of((0, [1], [0], [1])), "is none of the 1 of the step"),
    "tokens apart": (of((0, [1, 2], [0]))._replace(token_positions=torch.tensor([0, 2])), "do not follow each other"),
    "rows apart": (
        of((0, [1, 1], [0]), (0, [1], [1]))._replace(token_rows=torch.tensor([0, 1, 0])),
        "do not follow each other",
    ),
    "a row that is none": (of((0, [1], [0]))._replace(token_rows=torch.tensor([1])), "rows 1 to 1 of 1 block tables"),
}


@pytest.mark.parametrize(("step", "message"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_run_is_refused(step, message):
    with pytest.raises(RequestError, match=message):
        step.check(4, 5)


def test_sequences_may_read_the_same_block():
    of((4, [1], [0, 1]), (4, [2], [0, 2])).check(4, 3)  # which raises nothing
