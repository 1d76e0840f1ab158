"""Rows rounded to 8 bits, as the ops `quantize` and `dequantize` round them."""

import pytest
import torch

from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import quantize
from runtime.executors.cuda.kernels.rounding import RowScale, quantize_rows, round_rows

TYPES = {torch.int8: DType.i8, torch.float8_e4m3fn: DType.f8e4m3}


@pytest.mark.parametrize("x_dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rows_are_numbers_and_scales(dtype, own, x_dtype, device):
    x = torch.randn(5, 80, generator=torch.Generator().manual_seed(0)).to(x_dtype)[:, :72]
    largest = 127.0 if dtype is torch.int8 else 448.0
    scale = x.float().abs().amax(1, keepdim=True) * (1 / largest) if own else torch.tensor([[0.013]])
    given = RowScale(1 / largest, 1e-12, 1e12) if own else scale.view(1).to(device)
    rounded = quantize_rows(x.to(device), dtype, given)
    assert torch.equal(rounded.scale.cpu().view(scale.shape), scale)
    expected = quantize(x, scale, None, TYPES[dtype])
    assert rounded.q.dtype is dtype
    assert torch.equal(rounded.q.cpu().float(), expected.float())
    again = round_rows(x.to(device), dtype, given)
    assert again.dtype is x_dtype
    assert torch.equal(again.cpu(), (expected.float() * scale).to(x_dtype))
