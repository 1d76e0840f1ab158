"""Quantization schemes: the values that a quantized weight can take, and rounding to the nearest of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.torch_types import to_torch

LEAST_SCALE = 2.0**-24
"""The smallest scale: rows of zeros need one as well, and any that float16 can hold will do."""


class Scales(NamedTuple):
    """The scales of a weight.

    Attributes:
        scale: float32 `[N, blocks]`: each serves `K / blocks` weights of a row; or `[1, 1]`, for all. All are positive.
        zero: int8 of the same shape, what the weight 0 is stored as; None where that is 0.
    """

    scale: Tensor
    zero: Tensor | None = None

    def rows(self, some: slice) -> Scales:
        """Those of some rows, in the same memory; all of what serves the whole weight."""
        if len(self.scale) == 1:
            return self
        return Scales(self.scale[some], None if self.zero is None else self.zero[some])


class Rounded(NamedTuple):
    """A quantized weight.

    Attributes:
        values: `[N, K]`, int8 in the range of the scheme's bits, or float8.
        scales: their scales.
    """

    values: Tensor
    scales: Scales

    def dense(self) -> Tensor:
        """The weight that the values stand for, float32 `[N, K]`."""
        return dequantized(self.values, self.scales)


class Scheme(ABC):
    """The values that a weight can take, and which weights share a scale."""

    @property
    @abstractmethod
    def dtype(self) -> DType:
        """The element type that values are stored in."""

    @property
    def bits(self) -> int:
        """Bits of a weight, of those that it is stored in."""
        return self.dtype.bits

    @property
    @abstractmethod
    def top(self) -> float:
        """The absolute value, in units of the scale, that stands for the largest weight of a block."""

    @property
    def group(self) -> int:
        """How many weights of a row share a scale; 0 for one scale per row."""
        return 0

    @property
    def whole(self) -> bool:
        """Whether all of a weight shares one scale."""
        return False

    @abstractmethod
    def scales(self, weight: Tensor) -> Scales:
        """The scales of a weight `[N, K]`, from the extremes of each block."""

    @property
    def storage(self) -> torch.dtype:
        """The type of tensors of values; int8 for i4."""
        return torch.int8 if self.dtype.is_integer else to_torch(self.dtype)

    @abstractmethod
    def round_(self, scaled: Tensor, zero: Tensor | None = None) -> Tensor:
        """Round in place to the nearest values, as floats, what is given in units of its scale; float32.

        `zero` is what the weight 0 is stored as, 0 if None; the values are shifted by it.
        """

    def values(self, weight: Tensor, scales: Scales) -> Tensor:
        """The nearest values of a weight `[N, K]`, in the type that they are stored in; i4 as int8."""
        blocks = weight.float().unflatten(1, (scales.scale.shape[1], -1))
        zero = None if scales.zero is None else scales.zero[:, :, None]
        rounded = self.round_(blocks * (1 / scales.scale)[:, :, None], zero)
        return rounded.to(self.storage).reshape(weight.shape)

    def width(self, columns: int) -> int:
        """How many weights of a row of `columns` share a scale."""
        return self.group or columns

    def nearest(self, weight: Tensor, scales: Scales | None = None) -> Rounded:
        """The weight rounded to the nearest values, by its own scales if none are given."""
        scales = scales or self.scales(weight)
        return Rounded(self.values(weight, scales), scales)


@dataclass(frozen=True)
class IntegerScheme(Scheme):
    """Equal steps.

    Attributes:
        bits: bits of a weight; fewer than 4 are stored in 4.
        group: how many weights of a row share a scale; 0 for one scale per row.
        asymmetric: whether there are zero points, so that a scheme reaches from the smallest weight to the largest.
    """

    bits: int = 4
    group: int = 0
    asymmetric: bool = False

    @property
    def dtype(self) -> DType:
        """Integers of 4 or 8 bits."""
        return DType.i4 if self.bits <= 4 else DType.i8

    @property
    def low(self) -> int:
        """The smallest value."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """The largest value."""
        return (1 << (self.bits - 1)) - 1

    @property
    def top(self) -> float:
        """Half a step beyond the largest value, so that no weight is further than that from its value.

        Less a hair where the stored type goes on beyond the largest value, so that rounding ends there.
        """
        beyond = self.high + 0.5
        return beyond if self.bits in (4, 8) else beyond * (1 - 2**-20)

    def scales(self, weight: Tensor) -> Scales:
        """The scales of a weight `[N, K]`, from the extremes of each block."""
        blocks = weight.float().unflatten(1, (-1, self.width(weight.shape[1])))
        return self.scales_of_range(*blocks.aminmax(dim=2))

    def scales_of_range(self, least: Tensor, most: Tensor) -> Scales:
        """The scales of blocks with these extremes, float32 `[N, blocks]`."""
        if not self.asymmetric:
            return Scales((torch.maximum(-least, most) / self.top).clamp(min=LEAST_SCALE))
        least, most = least.clamp(max=0), most.clamp(min=0)
        scale = ((most - least) / (self.high - self.low)).clamp(min=LEAST_SCALE)
        return Scales(scale, (self.low - torch.round(least / scale)).to(torch.int8))

    def round_(self, scaled: Tensor, zero: Tensor | None = None) -> Tensor:
        """Round in place to the nearest integers of the scheme's range."""
        steps = scaled.round_()
        if zero is not None:
            steps += zero
        return steps.clamp_(self.low, self.high)


@dataclass(frozen=True)
class FloatScheme(Scheme):
    """The values of e4m3: steps grow with the weight.

    Attributes:
        whole: whether all of a weight shares one scale; else each row has its own.
    """

    whole: bool = True

    @property
    def dtype(self) -> DType:
        """Floats of 4 bits of exponent and 3 of mantissa."""
        return DType.f8e4m3

    @property
    def top(self) -> float:
        """The largest value."""
        return 448.0

    def scales(self, weight: Tensor) -> Scales:
        """The scales of a weight `[N, K]`, from its largest values: `[1, 1]` or `[N, 1]`."""
        largest = weight.float().abs().amax(1, keepdim=True)
        if self.whole:
            largest = largest.amax(0, keepdim=True)
        return Scales((largest / self.top).clamp(min=LEAST_SCALE))

    def round_(self, scaled: Tensor, zero: Tensor | None = None) -> Tensor:
        """Round in place to the nearest values of e4m3."""
        return scaled.copy_(scaled.clamp_(-self.top, self.top).to(self.storage))


def dequantized(values: Tensor, scales: Scales) -> Tensor:
    """`(values - zero) * scale`, float32 `[N, K]`."""
    blocks = values.float().unflatten(1, (scales.scale.shape[1], -1))
    if scales.zero is not None:
        blocks = blocks - scales.zero[:, :, None]
    dense: Tensor = blocks * scales.scale[:, :, None]
    return dense.reshape(values.shape)
