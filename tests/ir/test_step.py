"""Steps: how they are built, cut by rows and by tokens, and sent."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.ir.dims import symbol
from compiler.ir.step import STEP_INPUTS, Step, all_positions, dim_sizes


def i32(*values):
    return torch.tensor(values, dtype=torch.int32)


def values(step):
    """The tensors as lists; a step has no others than those of int32."""
    assert all(tensor.dtype == torch.int32 for tensor in step)
    return tuple(tensor.tolist() for tensor in step)


@st.composite
def steps(draw):
    """Any step of up to four rows."""
    rows, length, wanted = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    sizes = dim_sizes(batch=rows, length=length, wanted=wanted)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shapes = [type_.sizes(sizes) for type_ in STEP_INPUTS.values()]
    limits = (100, 100, length + 1, length)
    made = [torch.randint(n, s, generator=generator, dtype=torch.int32) for n, s in zip(limits, shapes, strict=True)]
    return Step(*made)


def test_the_inputs_of_a_graph_are_the_arguments_of_a_step() -> None:
    b, s, r = map(symbol, "BSR")
    assert tuple(STEP_INPUTS) == Step._fields
    assert [type_.shape for type_ in STEP_INPUTS.values()] == [(b, s), (b,), (b,), (b, r)]
    assert dim_sizes(batch=2, capacity=9) == {"B": 2, "C": 9}
    assert dim_sizes(length=0, wanted=1) == {"S": 0, "R": 1}


def test_prompts_are_padded_to_the_longest_and_rows_without_one_get_no_tokens() -> None:
    step = Step.of_prompts([[5, 6, 7], [8]], batch=3)
    assert values(step) == ([[5, 6, 7], [8, 0, 0], [0, 0, 0]], [0, 0, 0], [3, 1, 0], [[2], [0], [0]])
    assert (step.batch, step.length, step.wanted) == (3, 3, 1)
    everywhere = step.wanting(all_positions(3, 2))
    assert everywhere.wanted == 2
    assert values(everywhere)[3] == [[0, 1]] * 3


def test_a_prefill_without_padding_wants_the_last_logits() -> None:
    assert values(Step.prefill(i32([1, 2], [3, 4]))) == ([[1, 2], [3, 4]], [0, 0], [2, 2], [[1], [1]])
    assert values(Step.prefill(i32([1, 2]), i32(1), i32([0, 1])))[2:] == ([1], [[0, 1]])


def test_some_rows_of_a_step_are_a_step_of_a_batch_again() -> None:
    step = Step(i32([1, 2], [3, 0], [4, 5]), i32(7, 8, 9), i32(2, 1, 2), i32([1], [0], [1]))
    part = step.of(slice(1, 3))
    assert values(part) == ([[3, 0], [4, 5]], [8, 9], [1, 2], [[0], [1]])
    assert part.within(2, slice(0, 2), past=50) is part
    assert values(part.within(4, slice(1, 3), past=50)) == (
        [[0, 0], [3, 0], [4, 5], [0, 0]],
        [50, 8, 9, 50],
        [0, 1, 2, 0],
        [[0], [0], [1], [0]],
    )


def test_rows_of_one_token_are_a_step_of_their_own() -> None:
    step = Step(i32([1, 2], [3, 9], [4, 5]), i32(7, 8, 9), i32(2, 1, 0), i32([1], [0], [1]))
    assert values(step.single_tokens()) == ([[0], [3], [0]], [7, 8, 9], [0, 1, 0], [[0], [0], [0]])


def test_some_tokens_of_a_step_come_after_those_before_them() -> None:
    step = Step(i32([1, 2, 3, 4], [5, 0, 0, 0]), i32(10, 20), i32(4, 1), i32([3], [0]))
    assert values(step.tokens(1, 3, i32([0], [0]))) == ([[2, 3], [0, 0]], [11, 21], [2, 0], [[0], [0]])


@given(steps())
def test_a_step_that_is_sent_arrives_as_it_was(step) -> None:
    numbers = np.concatenate([np.asarray(part, dtype=np.int32) for part in step.packed()])
    arrived = Step.unpacked(numbers)
    numbers[:] = -1  # the message's memory may be used again
    assert values(arrived) == values(step)
    assert [tensor.shape for tensor in arrived] == [tensor.shape for tensor in step]
