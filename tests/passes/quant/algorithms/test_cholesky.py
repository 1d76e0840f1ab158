"""The Cholesky factor, panel by panel."""

import pytest
import torch

from compiler.passes.quant.algorithms import cholesky
from compiler.passes.quant.algorithms.cholesky import cholesky_


@pytest.mark.parametrize("width", [1, 8, 21])
def test_panels_make_the_factor_of_the_whole(width, monkeypatch):
    monkeypatch.setattr(cholesky, "PANEL", 8)
    x = torch.randn(50, width, generator=torch.Generator().manual_seed(width), dtype=torch.float64)
    gram = x.T @ x
    factor = gram.clone()
    assert cholesky_(factor)
    torch.testing.assert_close(factor.tril(), torch.linalg.cholesky(gram))
    assert torch.equal(factor.triu(8), gram.triu(8))


def test_a_matrix_that_is_not_positive_definite_is_found_in_any_panel(monkeypatch):
    monkeypatch.setattr(cholesky, "PANEL", 4)
    for bad in (1, 5, 11):
        matrix = torch.eye(12)
        matrix[bad, bad] = -1
        assert not cholesky_(matrix)
