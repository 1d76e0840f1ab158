"""The Cholesky factor of a large matrix, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.ir.products import product

PANEL = 512
"""How many columns are factorized at a time; the rest is products of matrices."""


def cholesky_(matrix: Tensor) -> bool:
    """Replace a symmetric matrix `[K, K]` by its lower Cholesky factor; what is above the diagonal stays as it is.

    Returns whether the matrix is positive definite; if not, it holds nothing of use.
    """
    for start in range(0, len(matrix), PANEL):
        stop = min(start + PANEL, len(matrix))
        if start:
            done = matrix[start:, :start].contiguous()
            matrix[start:, start:stop] -= product(done, done[: stop - start])
        corner, failed = torch.linalg.cholesky_ex(matrix[start:stop, start:stop])
        if failed:
            return False
        matrix[start:stop, start:stop] = corner
        below = matrix[stop:, start:stop]
        below.copy_(torch.linalg.solve_triangular(corner.T, below, upper=True, left=False))
    return True
