"""Buffers that follow from a config, compared with it: `Tensors.derived` asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compiler.frontends.rope import Rope

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.frontends.tensors import Follows

# Scores of hidden positions become this or less: float16 has nothing below -65504.
_HIDDEN = -1e4
# Units in the last place by which two ways to compute a frequency may differ; one is stored in as few as 16 bits.
_ULPS = 8
_SMALLEST_FLOAT16 = 2.0**-24


def is_causal(values: Tensor) -> bool:
    """Whether a stored mask `[..., S, S]` shows each position itself and those before, or a number hides a score."""
    if values.numel() == 1:
        return values.item() <= _HIDDEN
    shown = values != 0
    return shown.equal(shown.new_ones(shown.shape).tril())


def turns_by(rope: Rope | None) -> Follows:
    """Whether stored frequencies `[R/2]`, or a table of sines and cosines `[positions, R]`, are those of `rope`."""

    def follows(values: Tensor) -> bool:
        if rope is None:
            return values.numel() == 0
        return any(_matches(values, known) for known in (rope.frequencies, rope.unscaled) if known)

    return follows


def _matches(values: Tensor, frequencies: Sequence[float]) -> bool:
    import torch

    if values.dim() < 2:
        row, expected = values, list(frequencies)
    else:
        row = values[1] if len(values) > 1 else values[0]
        position = min(len(values) - 1, 1)
        expected = [wave(position * f) for wave in (math.sin, math.cos) for f in frequencies]
    wanted = torch.tensor(expected, dtype=torch.float64)
    ulp = torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0
    return row.shape == wanted.shape and torch.allclose(row.double(), wanted, rtol=_ULPS * ulp, atol=_SMALLEST_FLOAT16)
