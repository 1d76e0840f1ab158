"""The fastest `x @ weight.T + bias` that the installed torch has for a weight that stays.

On a CPU a decode step reads every weight once and does little else, so what counts is that a weight is stored in few
bytes, in the order in which the kernel reads it. torch has three kernels worth using, each behind a packing call:

- oneDNN's float32 product, about twice as fast as the plain one for 1 to 8 rows: for one row the weight stays as it is,
  for more it is packed in blocks;
- FBGEMM's product of float32 activations with float16 weights, which stay float16 in memory. A bfloat16 weight in
  float16's range is held exactly: it has fewer mantissa bits;
- oneDNN's bfloat16 product, which overtakes it at larger batches where the CPU has bfloat16 instructions.

All read faster from huge pages (see `runtime.load.loading`). They are torch's own but private to its compiler and
quantizer, so each is tried once on a small case, and the plain product serves where one is missing or wrong.
Activations are float32 whatever the weights are, and every kernel accumulates in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

Linear = Callable[[Tensor], Tensor]

# Rows (sequences per step) up to which the float16 kernel beats oneDNN's bfloat16 one; see benchmarks/decode.py.
_FEW_ROWS = 4
_FLOAT16_MAX = 65504.0


def pack_linear(weight: Tensor, bias: Tensor | None, rows: int) -> Linear:
    """A function from float32 `x [..., K]` to float32 `[..., N]` on the CPU.

    Args:
        weight: `[N, K]`, in the type in which it is to be stored.
        bias: `[N]` or None.
        rows: how many rows `x` usually has, which decides between kernels.
    """
    bias = None if bias is None else bias.float()
    if weight.dtype is torch.float16 and _works(_pack_float16):
        return _pack_float16(weight, bias)
    if weight.dtype is torch.bfloat16:
        fits = _works(_pack_float16) and bool(weight.abs().max() <= _FLOAT16_MAX)
        native = _has_bfloat16() and _works(_pack_bfloat16)
        if fits and (rows <= _FEW_ROWS or not native):
            return _pack_float16(weight, bias)
        if native:
            return _pack_bfloat16(weight, bias)
    if weight.dtype is torch.float32 and _works(_pack_float32):
        return _pack_float32(weight, bias) if rows > 1 else _dense_float32(weight, bias)
    return _plain(weight, bias)


def _plain(weight: Tensor, bias: Tensor | None) -> Linear:
    if weight.dtype is torch.float32:
        return partial(torch.nn.functional.linear, weight=weight, bias=bias)
    # Stored narrow, upcast at each use: slow, but memory stays what the user asked for.
    return lambda x: torch.nn.functional.linear(x, weight.float(), bias)


def _pack_float32(weight: Tensor, bias: Tensor | None) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    product = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: product(x, packed, bias, "none", [], "")


def _dense_float32(weight: Tensor, bias: Tensor | None) -> Linear:
    dense = weight.clone()  # out of the mapped file, whose pages are small
    product = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: product(x, dense, bias, "none", [], "")


def _pack_bfloat16(weight: Tensor, bias: Tensor | None) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    narrow_bias = None if bias is None else bias.to(torch.bfloat16)
    product = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: product(x.to(torch.bfloat16), packed, narrow_bias, "none", [], "").float()


def _pack_float16(weight: Tensor, bias: Tensor | None) -> Linear:
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), bias)
    product = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x: product(x, packed)


@cache
def _has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _works(pack: Callable[[Tensor, Tensor | None], Linear]) -> bool:
    """Whether a kernel exists here and computes a small product of small integers, which all types hold exactly."""
    stored: dict[object, torch.dtype] = {_pack_float16: torch.float16, _pack_bfloat16: torch.bfloat16}
    dtype = stored.get(pack, torch.float32)
    weight = (torch.arange(8 * 16).reshape(8, 16) % 5 - 2).to(dtype)
    bias = torch.arange(8, dtype=torch.float32)
    x = (torch.arange(3 * 16).reshape(3, 16) % 7 - 3).float()
    try:
        return bool(torch.equal(pack(weight, bias)(x), x @ weight.float().T + bias))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
