"""GPTQ: rounding a weight column by column, each error made good by the columns that follow (Frantar et al., 2023).

A row `w` of a weight is to become `q`, of values of a scheme, such that `(w - q) H (w - q)^T` is small, where `H` is
the Gram matrix `X X^T` of the inputs of calibration. With `H = R R^T`, `R` upper triangular, that is the sum over the
columns `k` of the squares of

    R[k,k] (e[k] + sum of e[i] R[i,k] / R[k,k] over i < k),   e = w - q

so that the best that can be done for column `k`, once those before it are rounded, is to round `w[k]` plus that sum. It
is what GPTQ does to a weight by way of the inverse of `H`, which this form does not need (Chee et al., 2023).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from compiler.errors import PassError
from compiler.ir.products import product
from compiler.passes.quant.algorithms.cholesky import cholesky_
from compiler.passes.quant.algorithms.scheme import Rounded, Scales, Scheme

BLOCK = 32
"""How many columns are rounded one by one between two products of matrices."""
ROWS = 4096
"""How many rows of a weight are rounded at a time."""


class CholeskyFactor(NamedTuple):
    """What GPTQ needs to know of a linear's inputs.

    Attributes:
        lower: with the columns of `X` in the reverse of `order`, the lower Cholesky factor of the damped Gram matrix,
            each column divided by its element on the diagonal, `[K, K]`. What is above the diagonal means nothing.
        order: the columns in the order in which they are rounded, `[K]`.
        dead: which columns' inputs were zero throughout, bool `[K]`; their weights become 0.
        is_sorted: whether `order` may be another than 0, 1, ...; the scales of groups are then fixed beforehand.
    """

    lower: Tensor
    order: Tensor
    dead: Tensor
    is_sorted: bool

    def feedback(self, later: slice, earlier: slice) -> Tensor:
        """What the errors of some columns add to later ones, `[later, earlier]`; columns by place in the order."""
        last = len(self.order)
        block = self.lower[last - earlier.stop : last - earlier.start, last - later.stop : last - later.start]
        return block.flip(0, 1).T


def factorize(gram: Tensor, *, damping: float = 0.01, order: bool = True, name: str = "the weight") -> CholeskyFactor:
    """Prepare GPTQ for the linears over one input.

    Args:
        gram: the Gram matrix of the inputs, `X X^T`, `[K, K]`; its type is what is computed in, but for float64 where
            float32 does not do.
        damping: the part of the mean of the diagonal that is added to the diagonal.
        order: whether to round the columns with the largest inputs first.
        name: what errors call the linear.

    Raises:
        PassError: if the damped Gram matrix is not positive definite.
    """
    diagonal = gram.diagonal().clone()
    dead = diagonal == 0
    diagonal[dead] = 0.5
    diagonal += damping * diagonal.mean()
    columns = diagonal.argsort(descending=True, stable=True) if order else torch.arange(len(dead), device=dead.device)
    last_first = columns.flip(0)
    lower = _factor(gram, diagonal, last_first)
    if lower is None and gram.dtype != torch.float64:
        lower = _factor(gram.double(), diagonal.double(), last_first)
    if lower is None:
        raise PassError(
            f"the inputs of {name} depend on one another too much for GPTQ",
            hint="give a larger damping, such as damping=0.1, or more text for calibration",
        )
    return CholeskyFactor(lower, columns, dead, order)


def _factor(gram: Tensor, diagonal: Tensor, columns: Tensor) -> Tensor | None:
    """The Cholesky factor of a Gram matrix with another diagonal, and its columns in an order, divided by its diagonal.

    None if it cannot be computed.
    """
    lower = torch.empty_like(gram)
    for start in range(0, len(columns), ROWS):
        part = slice(start, start + ROWS)
        torch.index_select(gram[columns[part]], 1, columns, out=lower[part])
    lower.diagonal().copy_(diagonal[columns])
    if not cholesky_(lower) or not bool(lower.diagonal().isfinite().all()):
        return None
    return lower.div_(lower.diagonal().clone())


def gptq(weight: Tensor, factor: CholeskyFactor, scheme: Scheme) -> Rounded:
    """Round a weight `[N, K]`.

    Without an order of columns, the scales of a group are taken when it is reached, from weights that already make
    good the errors before them; with one, all are taken from the weight as it was.
    """
    plain = weight.to(factor.lower.dtype).masked_fill(factor.dead, 0)
    scales = scheme.scales(plain)
    parts = []
    for start in range(0, len(plain), ROWS):
        rows = slice(start, start + ROWS)
        parts.append(_Rows(plain[rows], factor, scheme, scales.rows(rows)).round())
    return Rounded(torch.cat(parts), scales)


class _Rows:
    """Some rows of a weight while their columns are rounded, in order.

    Attributes:
        work: the weights, with what the errors of the columns before them add, `[N, K]`.
        errors: the errors of columns that are rounded, and the weights of those that are not, `[N, K]`.
        scales: the scales, written to as groups are reached.
        scale: the same, the groups first, `[blocks, N]` or `[1, 1]`.
        zero: what the weight 0 is stored as, likewise; None where that is 0.
    """

    def __init__(self, weight: Tensor, factor: CholeskyFactor, scheme: Scheme, scales: Scales) -> None:
        self.factor, self.scheme, self.scales = factor, scheme, scales
        self.scale = scales.scale.T.contiguous()
        self.zero = None if scales.zero is None else scales.zero.T.contiguous()
        self.places = factor.order.tolist()
        self.work = weight[:, factor.order]
        self.errors = self.work.clone()
        self.values = torch.empty(self.work.shape, dtype=scheme.storage, device=weight.device)
        self.width = scheme.width(len(self.places))
        # Scales of groups that are taken when they are reached need all of a group to be at hand.
        self.fixed = factor.is_sorted or self.width == len(self.places)
        self.block = BLOCK if self.fixed else self.width * -(-BLOCK // self.width)

    def round(self) -> Tensor:
        """The values of all columns, `[N, K]`, in the order of the weight."""
        self._columns(0, len(self.places))
        return self.values.view(torch.int8)[:, self.factor.order.argsort()].view(self.values.dtype)

    def _columns(self, start: int, stop: int) -> None:
        """Round some columns: the first half, and then, with what the errors of that add, the second."""
        blocks = -(-(stop - start) // self.block)
        if blocks == 1:
            self._block(start, stop)
            return
        middle = start + self.block * (blocks // 2)
        self._columns(start, middle)
        feedback = self.factor.feedback(slice(middle, stop), slice(start, middle))
        self.work[:, middle:stop] += product(self.errors[:, start:middle], feedback)
        self._columns(middle, stop)

    def _block(self, start: int, stop: int) -> None:
        """Round a few columns one by one; here a column of the weight is a row, which lies in one piece."""
        feedback = self.factor.feedback(slice(start, stop), slice(start, stop)).contiguous()
        work, errors = (each[:, start:stop].T.contiguous() for each in (self.work, self.errors))
        values = torch.empty_like(work, dtype=torch.float32)
        for column in range(stop - start):
            group = self.places[start + column] // self.width
            if not self.fixed and (start + column) % self.width == 0:
                self._take_scales(group, work, errors, feedback, column)
            scale, zero = self.scale[group], None if self.zero is None else self.zero[group]
            rounded = self.scheme.round_(torch.mul(work[column].float(), 1 / scale, out=values[column]), zero)
            errors[column] -= (rounded if zero is None else rounded - zero) * scale
            work[column + 1 :].addr_(feedback[column + 1 :, column], errors[column])
        self.errors[:, start:stop] = errors.T
        self.values[:, start:stop] = values.T.to(self.values.dtype)

    def _take_scales(self, group: int, work: Tensor, weights: Tensor, feedback: Tensor, column: int) -> None:
        """Take the scales of a group that begins here, from the best weights for it: as if none of it were rounded.

        Those weights `w + d` leave none of the terms above: `d[k]` is what the errors before the group add to column
        `k`, and what the changes `-d` of the group's columns before `k` do.
        """
        columns = slice(column, column + self.width)
        added = work[columns] - weights[columns]
        change = torch.linalg.solve_triangular(feedback[columns, columns], added, upper=False, unitriangular=True)
        taken = self.scheme.scales((weights[columns] + change).T)
        self.scale[group] = self.scales.scale[:, group] = taken.scale[:, 0]
        if self.zero is not None and self.scales.zero is not None and taken.zero is not None:
            self.zero[group] = self.scales.zero[:, group] = taken.zero[:, 0]
