"""Statistics of the inputs of linears, accumulated over calibration windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.errors import PassError
from compiler.ir.products import product

ROWS = 512
# Columns of a Gram matrix that are computed at once: half of it follows from the other half.
PANEL = 512
# How many tokens are looked at at once.
_TOKENS = 2048


@dataclass(frozen=True)
class InputStatistics:
    """What is known about the inputs `X` of linears, `[tokens, K]`.

    Attributes:
        mean_abs: the mean absolute value of each channel, float32 `[K]`.
        amax: the largest absolute value of each channel, float32 `[K]`.
        gram: the Gram matrix of the inputs, `X^T X`, float32 `[K, K]`: half the Hessian of GPTQ.
        rows: at most 512 of the inputs, evenly spread over all, float32 `[T, K]`.
    """

    mean_abs: Tensor
    amax: Tensor
    gram: Tensor
    rows: Tensor


def gather(inputs: Sequence[Tensor], device: torch.device, module: str, *, gram: bool = True) -> InputStatistics:
    """The statistics of inputs `[..., K]`, one tensor per batch.

    Args:
        inputs: the batches.
        device: where to compute.
        module: what errors call the linear.
        gram: whether to compute `gram`; else it is empty.

    Raises:
        PassError: if an input is NaN or infinite.
    """
    width = inputs[0].shape[-1]
    total = sum(batch.numel() // width for batch in inputs)
    sums, largest = torch.zeros(2, width, device=device)
    square = torch.zeros((width, width) if gram else (0, 0), device=device)
    kept = []
    every = max(1, -(-total // ROWS))
    seen = 0
    for channels in _parts(inputs, device):
        size = channels.abs()
        sums += size.sum(1)
        largest = torch.maximum(largest, size.amax(1))
        if not bool(largest.isfinite().all()):
            raise PassError(
                f"the input of {module} is NaN or infinite on the calibration text",
                hint="its weights may be damaged, or float16 too narrow for the model: try --dtype bfloat16 or float32",
            )
        if gram:
            _add_square(square, channels)
        kept.append(channels[:, -seen % every :: every].T.clone())  # a view would keep the whole part
        seen += channels.shape[1]
    _mirror(square)
    return InputStatistics(sums / total, largest, square, torch.cat(kept))


def _add_square(square: Tensor, channels: Tensor) -> None:
    """Add the products of some channels `[K, T]` with one another to a square, on and below the diagonal."""
    for start in range(0, len(square), PANEL):
        stop = start + PANEL
        square[start:stop, :stop] += product(channels[start:stop], channels[:stop])


def _mirror(square: Tensor) -> None:
    """Copy what is below the diagonal of a square to what is above it."""
    for start in range(0, len(square), PANEL):
        rows = slice(start, start + PANEL)
        corner = square[rows, rows]
        corner.copy_(corner.tril() + corner.tril(-1).T)
        square[:start, rows] = square[rows, :start].T


def require_finite(weight: Tensor, module: str) -> None:
    """PassError, naming the module, if a weight is NaN or infinite."""
    if not bool(weight.isfinite().all()):
        raise PassError(
            f"the weight of {module} holds NaN or infinite values",
            hint=f"the checkpoint is damaged; download it again, or leave the module out: skip={module}",
        )


def _parts(inputs: Sequence[Tensor], device: torch.device) -> Iterable[Tensor]:
    """The inputs, channels first, of at most 2,048 tokens at a time: float32 `[K, T]`."""
    for batch in inputs:
        for part in batch.reshape(-1, batch.shape[-1]).split(_TOKENS):
            yield part.to(device).T.contiguous().float()
