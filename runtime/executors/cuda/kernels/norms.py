"""Norms of rows, with the sum of what a layer adds before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.executors.cuda.kernels.dependent import launch_options, wait_for_kernel_before

Kind = Literal["layer_norm", "rms_norm"]

MOST_ADDED = 4
"""How many tensors, and how many biases, `add_norm` adds at once."""

MOST_NORMS = 2
"""How many norms of a row a kernel takes."""

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
def _factor(x, h, mask, GIVEN: tl.constexpr, BH: tl.constexpr):
    """A weight as f32, 1 if none is given."""
    if GIVEN:
        values = tl.load(x + h, mask=mask, other=0.0).to(tl.float32)
    else:
        values = tl.full((BH,), 1.0, tl.float32)
    return values


@triton.jit
def _add_norm(
    x, a0, a1, a2, a3, b0, b1, b2, b3, rows, weight, bias, weight2, bias2, total, normed, normed2,
    x_stride, s0, s1, s2, s3, r0, r1, r2, r3, eps,
    H: tl.constexpr, BH: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, P3: tl.constexpr,
    BIASES: tl.constexpr, ROWS: tl.constexpr, KEPT: tl.constexpr, WEIGHT: tl.constexpr,
    BIAS: tl.constexpr, SECOND: tl.constexpr, WEIGHT2: tl.constexpr, BIAS2: tl.constexpr, LAYER_NORM: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """The sum of a row and its norms; a program has one row.

    `x [T, H]` has rows `x_stride` apart; `a0` to `a3` are added, each of `P0` to `P3` parts `[H]` that are `s0` to
    `s3` apart, with rows `r0` to `r3` apart; then `BIASES` of `b0` to `b3`, each `[H]`. With `ROWS`, the rows are those
    in `rows i32[R]`. What is normed is the sum as rounded to the type of the result; `total [R, H]` gets it if it is
    `KEPT`. `normed2` gets the norm with other parameters, if there is a `SECOND`.
    """
    h = tl.arange(0, BH)
    mask = h < H
    # What is stored is read before the kernel before has ended.
    constant = _vector(b0, h, mask, BIASES > 0, BH)
    constant += _vector(b1, h, mask, BIASES > 1, BH)
    constant += _vector(b2, h, mask, BIASES > 2, BH)
    constant += _vector(b3, h, mask, BIASES > 3, BH)
    factor, shift = _factor(weight, h, mask, WEIGHT, BH), _vector(bias, h, mask, BIAS, BH)
    factor2, shift2 = _factor(weight2, h, mask, WEIGHT2, BH), _vector(bias2, h, mask, BIAS2, BH)
    wait_for_kernel_before(EARLY)
    to = tl.program_id(0).to(tl.int64)
    row = to
    if ROWS:
        row = tl.load(rows + to).to(tl.int64)
    y = tl.load(x + row * x_stride + h, mask=mask, other=0.0).to(tl.float32)
    y += _added(a0, row, h, mask, s0, r0, P0, BH)
    y += _added(a1, row, h, mask, s1, r1, P1, BH)
    y += _added(a2, row, h, mask, s2, r2, P2, BH)
    y += _added(a3, row, h, mask, s3, r3, P3, BH)
    y += constant
    rounded = y.to(normed.dtype.element_ty)
    if KEPT:
        tl.store(total + to * H + h, rounded, mask=mask)
    y = rounded.to(tl.float32)
    if LAYER_NORM:
        y = tl.where(mask, y - tl.sum(y, 0) / H, 0.0)
    y = y / tl.sqrt(tl.sum(y * y, 0) / H + eps)
    tl.store(normed + to * H + h, (y * factor + shift).to(normed.dtype.element_ty), mask=mask)
    if SECOND:
        tl.store(normed2 + to * H + h, (y * factor2 + shift2).to(normed.dtype.element_ty), mask=mask)


class Affine(NamedTuple):
    """The parameters of a norm.

    Attributes:
        weight: `[H]`, or None.
        bias: `[H]`, of a layer norm; or None.
    """

    weight: Tensor | None
    bias: Tensor | None = None


def norm(x: Tensor, affines: Sequence[Affine], eps: float, kind: Kind) -> list[Tensor]:
    """The layer norms or root-mean-square norms of rows `x [T, H]`, in the type of `x`; statistics are float32.

    Args:
        x: the rows; they may be any distance apart.
        affines: the parameters of each norm, one or two.
        eps: added to the variance, or to the mean square.
        kind: which norm.

    Raises:
        ValueError: if there are more than two, or the rows are too wide.
    """
    normed = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in affines]
    _launch(x, (), (), affines, eps, kind, None, None, normed)
    return normed


def add_norm(
    residual: Tensor,
    added: Sequence[Tensor],
    biases: Sequence[Tensor],
    affines: Sequence[Affine],
    eps: float,
    kind: Kind,
    *,
    sum_dtype: torch.dtype,
) -> list[Tensor]:
    """What a layer adds to its residual, and the norms of the sum as rounded: each `[T, H]` in `sum_dtype`.

    Args:
        residual: `[T, H]`; its rows may be any distance apart.
        added: what is added, in order: `[T, H]` of any float type, or parts `[S, T, H]` whose sum counts. Values of
            a row lie one after the other.
        biases: `[H]` each, which are added to every row.
        affines: the parameters of each norm, one or two.
        eps: added to the variance, or to the mean square.
        kind: which norm.
        sum_dtype: the element type of the results; sums and statistics are float32 until then.

    Raises:
        ValueError: if there are more than `MOST_ADDED` of either, more than two norms, or the rows are too wide.
    """
    total = torch.empty(residual.shape, dtype=sum_dtype, device=residual.device)
    normed = [torch.empty_like(total) for _ in affines]
    _launch(residual, added, biases, affines, eps, kind, None, total, normed)
    return [total, *normed]


def add_norm_of_rows(
    residual: Tensor,
    added: Sequence[Tensor],
    biases: Sequence[Tensor],
    affines: Sequence[Affine],
    eps: float,
    kind: Kind,
    *,
    sum_dtype: torch.dtype,
    rows: Tensor,
) -> list[Tensor]:
    """The norms that `add_norm` gives, of the rows `i32[R]` alone: each `[R, H]`."""
    shape = (rows.shape[0], residual.shape[1])
    normed = [torch.empty(shape, dtype=sum_dtype, device=residual.device) for _ in affines]
    _launch(residual, added, biases, affines, eps, kind, rows, None, normed)
    return normed


def _launch(
    x: Tensor,
    added: Sequence[Tensor],
    biases: Sequence[Tensor],
    affines: Sequence[Affine],
    eps: float,
    kind: Kind,
    rows: Tensor | None,
    total: Tensor | None,
    normed: Sequence[Tensor],
) -> None:
    count, width = normed[0].shape
    if width > _WIDEST or max(len(added), len(biases)) > MOST_ADDED or len(affines) > MOST_NORMS:
        raise ValueError(
            f"{len(affines)} norms of rows of {width} values after a sum with {len(added)} tensors and {len(biases)} "
            f"biases are more than one kernel does: {MOST_NORMS} norms, {_WIDEST} values, {MOST_ADDED} tensors, "
            f"{MOST_ADDED} biases"
        )
    missing = MOST_ADDED - len(added)
    parts = [each.shape[0] if each.dim() == 3 else 1 for each in added]
    apart = [each.stride(0) if each.dim() == 3 else 0 for each in added]
    strides = [each.stride(-2) for each in added]
    block = triton.next_power_of_2(width)
    counts = {f"P{at}": many for at, many in enumerate([*parts, *[0] * missing])}
    first, second = [*affines, Affine(None)][:2]
    _add_norm[(count,)](
        x, *added, *[None] * missing, *biases, *[None] * (MOST_ADDED - len(biases)), rows, *first, *second, total,
        normed[0], normed[1] if len(normed) > 1 else None,
        x.stride(0), *apart, *[0] * missing, *strides, *[0] * missing, eps,
        H=width, BH=block, BIASES=len(biases), ROWS=rows is not None,
        KEPT=total is not None, WEIGHT=first.weight is not None, BIAS=first.bias is not None, SECOND=len(affines) > 1,
        WEIGHT2=second.weight is not None, BIAS2=second.bias is not None, LAYER_NORM=kind == "layer_norm",
        num_warps=min(32, max(1, block // 512)), **counts, **launch_options(x.device),
    )  # fmt: skip
