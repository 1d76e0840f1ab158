"""Draws by running sums."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.generation.draws import draw


def by_definition(weights, number):
    """The first place at which the running sum exceeds the share, in exact integers."""
    total, running = sum(weights), 0
    for place, weight in enumerate(weights):
        running += weight
        if running > number * total:
            return place
    raise AssertionError


@given(
    st.integers(1, 700).flatmap(lambda width: st.lists(st.integers(0, 7), min_size=width, max_size=width)),
    st.integers(0, 2**20 - 1),
)
def test_a_draw_is_the_first_place_that_exceeds_the_number(weights, share) -> None:
    weights[len(weights) // 2] += 1
    number = share / 2**20
    got = draw(torch.tensor([weights], dtype=torch.float32), torch.tensor([number], dtype=torch.float64))
    assert int(got) == by_definition(weights, number)


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_places_without_weight_are_never_drawn(number) -> None:
    weights = torch.zeros(3, 1000)
    weights[0, 511] = weights[1, 0] = weights[2, 999] = 1e-30
    got = draw(weights, torch.full((3,), number, dtype=torch.float64))
    assert got.tolist() == [511, 0, 999]


def test_rows_are_drawn_each_by_its_own_number() -> None:
    weights = torch.rand(16, 1000, generator=torch.Generator().manual_seed(1))
    numbers = torch.rand(16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    together = draw(weights, numbers).tolist()
    assert together == [int(draw(weights[i : i + 1], numbers[i : i + 1])) for i in range(16)]
    assert len(set(together)) > 8


def test_the_largest_number_draws_a_place_of_the_row_however_sums_are_rounded() -> None:
    # Their sums depend on the order of the additions: the sum of a block may exceed its last running sum.
    weights = torch.randn(300, 512, generator=torch.Generator().manual_seed(1)).mul(9).exp()
    got = draw(weights, torch.full((300,), 1 - 2**-53, dtype=torch.float64))
    assert int(got.max()) < 512
