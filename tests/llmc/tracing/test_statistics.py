"""Statistics of pairs of tensors that come in parts."""

import math

import pytest
import torch

from compiler.ir.comparison import relative_error
from llmc.tracing import statistics
from llmc.tracing.statistics import Tally

A = torch.tensor([[1.0, -4.0, 2.0], [0.5, 0.0, 3.0]])
B = torch.tensor([[1.0, -3.0, 2.0], [0.5, 0.25, 3.5]])


def tally(a: torch.Tensor, b: torch.Tensor, parts: int = 1) -> Tally:
    result = Tally()
    rows = a.shape[0] // parts
    for part in range(parts):
        own = slice(part * rows, (part + 1) * rows)
        result.add(a[own], b[own], (part * rows, 0))
    return result


@pytest.mark.parametrize("parts", [1, 2])
def test_parts_add_up(parts: int) -> None:
    found = tally(A, B, parts)
    ours, theirs = found.statistics()
    assert (ours.largest, theirs.largest) == (4.0, 3.5)
    assert ours.mean == pytest.approx(A.mean().item())
    assert theirs.rms == pytest.approx(B.square().mean().sqrt().item())
    difference = found.difference()
    assert difference.error == pytest.approx(relative_error(A, B))
    assert (difference.largest, difference.where, difference.values) == (1.0, (0, 1), (-4.0, -3.0))
    assert difference.cosine == pytest.approx(torch.cosine_similarity(A.view(-1), B.view(-1), dim=0).item())


def test_indices_count_from_the_beginning_of_the_value() -> None:
    changed = A.clone()
    changed[1, 2] = 9.0
    assert tally(changed, A, parts=2).difference().where == (1, 2)


def test_large_values_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tally(A, B)
    monkeypatch.setattr(statistics, "_BLOCK", 4)
    blocks = tally(A, B)
    assert blocks.statistics() == whole.statistics()
    assert blocks.difference() == whole.difference()
    assert tally(B, B).difference().where == ()


def test_what_is_not_finite_is_counted_and_equal_infinities_agree() -> None:
    inf = torch.tensor([[-math.inf, 1.0], [math.nan, 2.0]])
    found = tally(inf, inf)
    assert found.statistics()[0].not_finite == 2
    assert found.statistics()[0].rms == pytest.approx(math.sqrt(2.5))
    assert found.difference().error == 0
    assert tally(inf, torch.ones(2, 2)).difference().error == math.inf


def test_zeros_point_nowhere() -> None:
    zero = torch.zeros(2, 2)
    assert tally(zero, zero).difference().cosine == 1
    difference = tally(torch.ones(2, 2), zero).difference()
    assert (difference.error, difference.cosine) == (math.inf, 0)


def test_scalars_and_integers_are_compared() -> None:
    found = Tally()
    assert found.is_empty
    found.add(torch.tensor(3), torch.tensor(5))
    assert found.difference().largest == 2
    assert found.difference().where == ()
    bools = Tally()
    bools.add(torch.tensor([True, False]), torch.tensor([True, True]))
    assert bools.difference().where == (1,)
