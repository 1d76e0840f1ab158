"""GPTQ: rounding a weight column by column, each error made good by the columns that follow (Frantar et al., 2023).

A row `w` of a weight is to become `q`, of values of a scheme, such that `(w - q) H (w - q)^T` is small, where `H = 2 X
X^T` over the inputs `X` of calibration. Once a column is rounded, the best change of the ones after it is known in
closed form; its coefficients for all columns are the rows of the upper Cholesky factor of the inverse of `H`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from compiler.errors import PassError
from compiler.ir.torch_types import to_torch
from compiler.passes.quant.algorithms.scheme import Rounded, Scales, Scheme

BLOCK = 128


class CholeskyFactor(NamedTuple):
    """What GPTQ needs to know of a linear's inputs.

    Attributes:
        upper: the upper Cholesky factor of the inverse of the damped Hessian, `[K, K]`, columns in `order`.
        order: the columns in the order in which they are rounded, `[K]`.
        dead: which columns' inputs were zero throughout, bool `[K]`; their weights become 0.
        is_sorted: whether `order` may be another than 0, 1, ...; the scales of groups are then fixed beforehand.
    """

    upper: Tensor
    order: Tensor
    dead: Tensor
    is_sorted: bool


def factorize(gram: Tensor, *, damping: float = 0.01, order: bool = True, name: str = "the weight") -> CholeskyFactor:
    """Prepare GPTQ for the linears over one input.

    Args:
        gram: the Gram matrix of the inputs, `X X^T`, `[K, K]`; its type is what is computed in, but for float64 where
            float32 does not do.
        damping: the part of the mean of the diagonal that is added to the diagonal.
        order: whether to round the columns with the largest inputs first.
        name: what errors call the linear.

    Raises:
        PassError: if the damped Hessian is not positive definite.
    """
    hessian = 2 * gram
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    diagonal += damping * diagonal.mean()
    columns = diagonal.argsort(descending=True, stable=True) if order else torch.arange(len(dead), device=dead.device)
    ordered = hessian[columns][:, columns]
    del hessian, diagonal  # they are as large as anything that a calibration holds
    upper = _inverse_factor(ordered)
    if upper is None and ordered.dtype != torch.float64:
        upper = _inverse_factor(ordered.double())
    if upper is None:
        raise PassError(
            f"the inputs of {name} depend on one another too much for GPTQ",
            hint="give a larger damping, such as damping=0.1, or more text for calibration",
        )
    return CholeskyFactor(upper, columns, dead, order)


def _inverse_factor(matrix: Tensor) -> Tensor | None:
    """The upper Cholesky factor of the inverse of a matrix; None if it cannot be computed."""
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if failed or not bool(upper.isfinite().all()) else upper


def gptq(weight: Tensor, factor: CholeskyFactor, scheme: Scheme) -> Rounded:
    """Round a weight `[N, K]`.

    Without an order of columns, the scales of a group are taken when it is reached, from weights that already make
    good the errors before them; with one, all are taken from the weight as it was.
    """
    upper = factor.upper
    plain = weight.to(upper.dtype).masked_fill(factor.dead, 0)
    width = scheme.width(plain.shape[1])
    scales = _Scales(scheme, plain, width, fixed=factor.is_sorted)
    work = plain.T[factor.order].contiguous()  # a column of the weight is a row, which lies in one piece
    values = torch.empty(work.shape, dtype=torch.int8, device=work.device)
    places = factor.order.tolist()
    for start in range(0, len(places), BLOCK):
        stop = min(start + BLOCK, len(places))
        errors = work.new_zeros(stop - start, work.shape[1])
        for column in range(start, stop):
            group = scales.at(places[column], work, errors, upper, start, column)
            current = work[column, :, None]
            value = scheme.values(current, group)
            values[column] = value.view(torch.int8)[:, 0]
            error = (current - Rounded(value, group).dense())[:, 0] / upper[column, column]
            errors[column - start] = error
            work[column + 1 : stop].addr_(upper[column, column + 1 : stop], error, alpha=-1)
        work[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    ordered = values[factor.order.argsort()].T.contiguous()
    return Rounded(ordered.view(to_torch(scheme.dtype)), scales.all())


class _Scales:
    """The scales of the groups, fixed beforehand or taken as groups are reached."""

    def __init__(self, scheme: Scheme, weight: Tensor, width: int, *, fixed: bool) -> None:
        self.scheme = scheme
        self.width = width
        self.fixed = fixed
        self.scale, self.zero = scheme.scales(weight)

    def at(self, place: int, work: Tensor, errors: Tensor, upper: Tensor, start: int, column: int) -> Scales:
        """The scales `[N, 1]` of the column at `place`."""
        group = place // self.width
        if not self.fixed and place % self.width == 0:
            ahead = work[column : column + self.width].T.clone()
            beyond = start + len(errors) - column  # columns of the group that lag by this block's errors
            if beyond < self.width:
                lagging = slice(column + beyond, column + self.width)
                ahead[:, beyond:] -= errors.T @ upper[start : start + len(errors), lagging]
            scale, zero = self.scheme.scales(ahead)
            self.scale[:, group : group + 1] = scale
            if self.zero is not None and zero is not None:
                self.zero[:, group : group + 1] = zero
        zeros = None if self.zero is None else self.zero[:, group : group + 1]
        return Scales(self.scale[:, group : group + 1], zeros)

    def all(self) -> Scales:
        """The scales of every group."""
        return Scales(self.scale, self.zero)
