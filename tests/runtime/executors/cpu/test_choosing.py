"""Comparisons, and what they choose, are those of torch, bit for bit."""

import operator

import pytest
import torch

from tests.runtime.executors.cpu.kernel_runs import run_op

COMPARISONS = {"less": operator.lt, "less_equal": operator.le, "logical_and": operator.and_}


def numbers(dtype, rows, columns):
    generator = torch.Generator().manual_seed(rows + columns)
    return torch.randint(0, 3, (rows, columns), generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
@pytest.mark.parametrize(("rows", "columns"), [((5, 1), (7, 7)), ((4, 4), (1, 33)), ((1, 1), (600, 600))])
def test_comparisons_and_choices(library, dtype, rows, columns):
    a, b = (numbers(dtype, *shape) for shape in zip(rows, columns, strict=True))
    for kernel in ("less", "less_equal"):
        found = torch.zeros(max(rows), max(columns), dtype=torch.bool)
        run_op(library, lambda builder, *given, kernel=kernel: builder.add(kernel, *given), [a, b, found])
        assert torch.equal(found, COMPARISONS[kernel](a, b).expand_as(found))
        chosen = torch.zeros(max(rows), max(columns), dtype=dtype)
        run_op(library, lambda builder, *given: builder.add("where", *given), [found, a, b, chosen])
        assert torch.equal(chosen, torch.where(found, a, b))


def test_both_conditions(library):
    a, b = numbers(torch.bool, 3, 9), numbers(torch.bool, 1, 9)
    found = torch.zeros(3, 9, dtype=torch.bool)
    run_op(library, lambda builder, *given: builder.add("logical_and", *given), [a, b, found])
    assert torch.equal(found, a & b)
