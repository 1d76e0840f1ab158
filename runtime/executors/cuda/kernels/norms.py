"""Norms of rows, with the sum of what a layer adds before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

Kind = Literal["layer_norm", "rms_norm"]

MOST_ADDED = 4
"""How many tensors, and how many biases, `add_norm` adds at once."""

_WIDEST = 65_536


@triton.jit
def _added(x, row, h, mask, part_stride, row_stride, PARTS: tl.constexpr, BH: tl.constexpr):
    """A row of what is added, as f32: the sum of its parts, 0 if there are none."""
    total = tl.zeros((BH,), tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(x + part * part_stride + row * row_stride + h, mask=mask, other=0.0).to(tl.float32)
    return total


@triton.jit
def _vector(x, h, mask, GIVEN: tl.constexpr, BH: tl.constexpr):
    """A bias as f32, 0 if none is given."""
    if GIVEN:
        values = tl.load(x + h, mask=mask, other=0.0).to(tl.float32)
    else:
        values = tl.zeros((BH,), tl.float32)
    return values


@triton.jit
def _add_norm(
    x, a0, a1, a2, a3, b0, b1, b2, b3, weight, bias, total, normed,
    x_stride, s0, s1, s2, s3, r0, r1, r2, r3, eps,
    H: tl.constexpr, BH: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, P3: tl.constexpr,
    BIASES: tl.constexpr, SUMMED: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, LAYER_NORM: tl.constexpr,
):  # fmt: skip
    """The sum of a row and its norm; a program has one row.

    `x [T, H]` has rows `x_stride` apart; `a0` to `a3` are added, each of `P0` to `P3` parts `[H]` that are `s0` to
    `s3` apart, with rows `r0` to `r3` apart; then `BIASES` of `b0` to `b3`, each `[H]`. With `SUMMED`, `total [T, H]`
    gets the sum, and what is normed is the sum as rounded to its type.
    """
    row = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, BH)
    mask = h < H
    y = tl.load(x + row * x_stride + h, mask=mask, other=0.0).to(tl.float32)
    if SUMMED:
        y += _added(a0, row, h, mask, s0, r0, P0, BH)
        y += _added(a1, row, h, mask, s1, r1, P1, BH)
        y += _added(a2, row, h, mask, s2, r2, P2, BH)
        y += _added(a3, row, h, mask, s3, r3, P3, BH)
        y += _vector(b0, h, mask, BIASES > 0, BH)
        y += _vector(b1, h, mask, BIASES > 1, BH)
        y += _vector(b2, h, mask, BIASES > 2, BH)
        y += _vector(b3, h, mask, BIASES > 3, BH)
        rounded = y.to(total.dtype.element_ty)
        tl.store(total + row * H + h, rounded, mask=mask)
        y = rounded.to(tl.float32)
    if LAYER_NORM:
        y = tl.where(mask, y - tl.sum(y, 0) / H, 0.0)
    y = y / tl.sqrt(tl.sum(y * y, 0) / H + eps)
    if WEIGHT:
        y = y * tl.load(weight + h, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        y = y + tl.load(bias + h, mask=mask, other=0.0).to(tl.float32)
    tl.store(normed + row * H + h, y.to(normed.dtype.element_ty), mask=mask)


def norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, kind: Kind) -> Tensor:
    """The layer norm or root-mean-square norm of rows `x [T, H]`, in the type of `x`; statistics are float32.

    Args:
        x: the rows; they may be any distance apart.
        weight: `[H]`, or None.
        bias: `[H]`, of a layer norm; or None.
        eps: added to the variance, or to the mean square.
        kind: which norm.

    Raises:
        ValueError: if the rows are too wide.
    """
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, (), (), weight, bias, eps, kind, None, normed)
    return normed


def add_norm(
    residual: Tensor,
    added: Sequence[Tensor],
    biases: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    kind: Kind,
    *,
    sum_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """What a layer adds to its residual, and the norm of the sum as rounded, both `[T, H]` in `sum_dtype`.

    Args:
        residual: `[T, H]`; its rows may be any distance apart.
        added: what is added, in order: `[T, H]` of any float type, or parts `[S, T, H]` whose sum counts. Values of
            a row lie one after the other.
        biases: `[H]` each, which are added to every row.
        weight: of the norm, `[H]`, or None.
        bias: of a layer norm, `[H]`, or None.
        eps: added to the variance, or to the mean square.
        kind: which norm.
        sum_dtype: the element type of the results; sums and statistics are float32 until then.

    Raises:
        ValueError: if there are more than `MOST_ADDED` of either, or the rows are too wide.
    """
    total = torch.empty(residual.shape, dtype=sum_dtype, device=residual.device)
    normed = torch.empty_like(total)
    _launch(residual, added, biases, weight, bias, eps, kind, total, normed)
    return total, normed


def _launch(
    x: Tensor,
    added: Sequence[Tensor],
    biases: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    kind: Kind,
    total: Tensor | None,
    normed: Tensor,
) -> None:
    tokens, width = x.shape
    if width > _WIDEST or max(len(added), len(biases)) > MOST_ADDED:
        raise ValueError(
            f"a norm of rows of {width} values after a sum with {len(added)} tensors and {len(biases)} biases is more "
            f"than one kernel does: {_WIDEST} values, {MOST_ADDED} tensors, {MOST_ADDED} biases"
        )
    missing = MOST_ADDED - len(added)
    parts = [each.shape[0] if each.dim() == 3 else 1 for each in added]
    apart = [each.stride(0) if each.dim() == 3 else 0 for each in added]
    rows = [each.stride(-2) for each in added]
    block = triton.next_power_of_2(width)
    counts = {f"P{at}": count for at, count in enumerate([*parts, *[0] * missing])}
    _add_norm[(tokens,)](
        x, *added, *[None] * missing, *biases, *[None] * (MOST_ADDED - len(biases)), weight, bias, total, normed,
        x.stride(0), *apart, *[0] * missing, *rows, *[0] * missing, eps,
        H=width, BH=block, BIASES=len(biases), SUMMED=total is not None, WEIGHT=weight is not None,
        BIAS=bias is not None, LAYER_NORM=kind == "layer_norm", num_warps=min(32, max(1, block // 512)), **counts,
    )  # fmt: skip
