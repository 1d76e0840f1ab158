"""Grids: the values that a quantized weight can take, and rounding to the nearest of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Scales(NamedTuple):
    """The scales of a weight.

    Attributes:
        scale: float32 `[N, blocks]`: each serves `K / blocks` weights of a row; all are positive.
        zero: int8 of the same shape, what the weight 0 is stored as; None where that is 0.
    """

    scale: Tensor
    zero: Tensor | None = None


class Rounded(NamedTuple):
    """A quantized weight.

    Attributes:
        codes: int8 `[N, K]`, in the range of the grid's bits.
        scales: their scales.
    """

    codes: Tensor
    scales: Scales

    def dense(self) -> Tensor:
        """The weight that the codes stand for, float32 `[N, K]`."""
        return dequantized(self.codes, self.scales)


@dataclass(frozen=True)
class Grid:
    """How a weight is rounded.

    Attributes:
        bits: bits of a weight.
        group: how many weights of a row share a scale; 0 for one scale a row.
        asymmetric: whether there are zero points, so that a grid reaches from the smallest weight to the largest.
    """

    bits: int = 4
    group: int = 0
    asymmetric: bool = False

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1

    def width(self, columns: int) -> int:
        """How many weights of a row of `columns` share a scale."""
        return self.group or columns

    def scales(self, weight: Tensor) -> Scales:
        """The scales of a weight `[N, K]`, from the extremes of each block.

        A symmetric grid has one code more below zero than above: its largest weight lies half a step beyond the
        largest code, so that no weight is further than half a step from its code.
        """
        blocks = weight.float().unflatten(1, (-1, self.width(weight.shape[1])))
        if not self.asymmetric:
            return Scales(_positive(blocks.abs().amax(2) / (self.high + 0.5)))
        least, most = blocks.amin(2).clamp(max=0), blocks.amax(2).clamp(min=0)
        scale = _positive((most - least) / (self.high - self.low))
        return Scales(scale, (self.low - torch.round(least / scale)).to(torch.int8))

    def codes(self, weight: Tensor, scales: Scales) -> Tensor:
        """The nearest codes of a weight `[N, K]`, int8."""
        blocks = weight.float().unflatten(1, (scales.scale.shape[1], -1))
        steps = torch.round(blocks * (1 / scales.scale)[:, :, None])
        if scales.zero is not None:
            steps = steps + scales.zero[:, :, None]
        codes: Tensor = steps.clamp(self.low, self.high).to(torch.int8).reshape(weight.shape)
        return codes

    def nearest(self, weight: Tensor, scales: Scales | None = None) -> Rounded:
        """The weight rounded to the nearest codes, by its own scales if none are given."""
        scales = scales or self.scales(weight)
        return Rounded(self.codes(weight, scales), scales)


def dequantized(codes: Tensor, scales: Scales) -> Tensor:
    """`(codes - zero) * scale`, float32 `[N, K]`."""
    blocks = codes.float().unflatten(1, (scales.scale.shape[1], -1))
    if scales.zero is not None:
        blocks = blocks - scales.zero[:, :, None]
    dense: Tensor = blocks * scales.scale[:, :, None]
    return dense.reshape(codes.shape)


def _positive(scale: Tensor) -> Tensor:
    """The scales, or 1 for blocks of zeros."""
    return torch.where(scale > 0, scale, 1.0)
