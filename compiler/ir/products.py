"""Products of float32 matrices, by the faster of two libraries."""

from __future__ import annotations

import torch
from torch import Tensor

# From so many multiplications on, the choice of a library matters.
_LARGE = 2**26


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`: `x` `[..., K]`, `weight` `[N, K]`, `bias` `[N]`; the result is `[..., N]`.

    Large products of float32 on a CPU are oneDNN's, which uses all of a CPU's vector instructions; torch's own library
    uses the shorter ones on some CPUs, and takes twice as long. Both sum in float32.
    """
    if _is_large(x, weight) and _has_onednn(x, weight):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight.contiguous(), bias, "none", [], "")
        return result
    return torch.nn.functional.linear(x, weight, bias)


def _is_large(x: Tensor, weight: Tensor) -> bool:
    return x.numel() * weight.shape[0] >= _LARGE


def _has_onednn(x: Tensor, weight: Tensor) -> bool:
    kinds = {(tensor.dtype, tensor.device.type) for tensor in (x, weight)}
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return kinds == {(torch.float32, "cpu")} and not learns and torch.backends.mkldnn.is_available()
