"""Statistics of pairs of tensors, gathered as the tensors come, so that none must be kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BLOCK = 2**22
"""How many elements are in float64 at a time: 32 MiB."""


@dataclass(frozen=True)
class Statistics:
    """What the elements of a value are like.

    Attributes:
        largest: the largest magnitude of a finite element.
        mean: the mean of the finite elements.
        rms: their root mean square.
        not_finite: how many elements are infinite or no numbers.
    """

    largest: float
    mean: float
    rms: float
    not_finite: int


@dataclass(frozen=True)
class Difference:
    """How far a value is from another one.

    Attributes:
        error: the root mean square of the difference over that of the second value; infinite if one is not finite
            where the two differ, or the second value is 0 and the first is not.
        largest: the largest difference of two elements.
        where: the indices of these two elements; empty if nothing differs.
        values: these two elements.
        cosine: the cosine of the angle between the two values; 1 if both are 0, and 0 if one of them is.
    """

    error: float
    largest: float
    where: tuple[int, ...]
    values: tuple[float, float] | None
    cosine: float


class _Sums:
    """The sums over the elements of one value."""

    def __init__(self) -> None:
        self.count, self.not_finite, self.largest, self.total, self.squares = 0, 0, 0.0, 0.0, 0.0

    def add(self, x: Tensor) -> Tensor:
        """Add elements, in float64; returns them with zeros in place of those that are not finite."""
        finite = x.isfinite()
        known = torch.where(finite, x, 0.0)
        self.not_finite += int(x.numel() - finite.sum())
        self.count += x.numel()
        self.largest = max(self.largest, known.abs().max().item())
        self.total += known.sum().item()
        self.squares += known.square().sum().item()
        return known

    def statistics(self) -> Statistics:
        count = max(1, self.count - self.not_finite)
        return Statistics(self.largest, self.total / count, math.sqrt(self.squares / count), self.not_finite)


class Tally:
    """The statistics of two values that are compared, of which parts are added one after the other."""

    def __init__(self) -> None:
        self._a, self._b = _Sums(), _Sums()
        self._products = self._squares = 0.0
        self._largest = 0.0
        self._where: tuple[int, ...] = ()
        self._values: tuple[float, float] | None = None
        self.shape: tuple[int, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been added."""
        return self._a.count == 0

    def add(self, a: Tensor, b: Tensor, first: Sequence[int] = ()) -> None:
        """Add two tensors of one shape.

        Args:
            a: a part of the first value.
            b: the same part of the second.
            first: where the part begins in the whole value, an index for each axis; at 0 if empty.
        """
        self.shape = tuple(a.shape)
        x, y = a.detach().reshape(-1), b.detach().reshape(-1)
        for start in range(0, x.numel(), _BLOCK):
            block = slice(start, start + _BLOCK)
            self._add(x[block].cpu().double(), y[block].cpu().double(), start, first)

    def _add(self, a: Tensor, b: Tensor, start: int, first: Sequence[int]) -> None:
        same = (a == b) | (a.isnan() & b.isnan())
        apart = torch.where(same, 0.0, a - b).abs().nan_to_num(nan=math.inf, posinf=math.inf)
        known = self._a.add(a), self._b.add(b)
        self._products += (known[0] @ known[1]).item()
        self._squares += apart.square().sum().item()
        place = int(apart.argmax())
        if (most := apart[place].item()) > self._largest:
            self._largest, self._values = most, (a[place].item(), b[place].item())
            index = np.unravel_index(start + place, self.shape) if self.shape else ()
            self._where = tuple(int(i) + (first[axis] if first else 0) for axis, i in enumerate(index))

    def statistics(self) -> tuple[Statistics, Statistics]:
        """Those of both values."""
        return self._a.statistics(), self._b.statistics()

    def difference(self) -> Difference:
        """How far the first value is from the second."""
        a, b = self._a.squares, self._b.squares
        error = 0.0
        if self._squares:
            error = math.sqrt(self._squares / b) if b and math.isfinite(self._squares) else math.inf
        cosine = self._products / math.sqrt(a * b) if a and b else float(a == b)
        return Difference(error, self._largest, self._where, self._values, max(-1.0, min(1.0, cosine)))


def json_number(value: Any) -> Any:
    """A number for JSON: null for one that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
