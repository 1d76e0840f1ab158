"""Weights as the kernels read them, and which weights they cannot read."""

import pytest
import torch

from compiler.ir.dtypes import DType
from runtime.executors.cuda.kernels.many_rows import dequantize_rows
from runtime.executors.cuda.kernels.products import Section
from runtime.executors.cuda.kernels.weights import can_serve, join
from runtime.executors.torch.packed import PackedWeight
from tests.runtime.executors.cuda.products import Case, grid, rounding


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "form",
    [Case("int8", 32, True), Case("int8"), Case("int4", 32, True), Case("int4", 96), Case("float8", -1)],
    ids=str,
)
def test_rows_are_dequantized(form, dtype, device):
    case = form._replace(dtype=dtype, sections=(Section(21, None), Section(16, None)), columns=(96, 192))
    parts, expected = grid(case, torch.Generator().manual_seed(0))
    weight = join(parts, dtype, device)
    out = torch.full((25, 288), torch.nan, dtype=dtype, device=device)
    dequantize_rows(weight, 7, out)
    unit = rounding(dtype, device) + 2 * torch.finfo(torch.float32).eps
    assert torch.allclose(
        out.double().cpu(), expected[7:32], rtol=unit, atol=float(torch.finfo(dtype).smallest_normal) * unit
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_float8_is_converted_exactly(dtype, device):
    bits = torch.arange(256, dtype=torch.uint8)
    q = bits[(bits & 127) != 127].repeat(3)[:736].view(32, 23).repeat_interleave(32, 1).view(torch.float8_e4m3fn)
    part = PackedWeight(q, torch.ones(32, 1), None, (32, 736), DType.f8e4m3)
    out = torch.empty(32, 736, dtype=dtype, device=device)
    dequantize_rows(join([[part]], dtype, device), 0, out)
    assert torch.equal(out.float().cpu(), q.float())


def packed(n, k, dtype=DType.i8, groups=1, zero=None):
    q = torch.zeros(n, k // 2 if dtype is DType.i4 else k, dtype=torch.uint8 if dtype is DType.i4 else torch.int8)
    scale = torch.ones(n, groups)
    return PackedWeight(
        q, scale, None if zero is None else torch.full_like(scale, zero, dtype=torch.int8), (n, k), dtype
    )


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([[torch.zeros(4, 32)], [packed(4, 32)]], "stored in different ways"),
        ([[torch.zeros(4, 32)] * 3], "3 inputs"),
        ([[torch.zeros(4, 32)], [torch.zeros(4, 64)]], "do not have the same columns"),
        ([[torch.zeros(4, 32, dtype=torch.float64)]], "torch.float64"),
        ([[packed(4, 64, groups=4)]], "16 columns share a scale"),
        ([[packed(4, 48, DType.i4)]], "no multiple"),
        ([[packed(4, 64, DType.i4, zero=120)]], "zero points above"),
    ],
)
def test_what_cannot_be_served_is_said(parts, why):
    assert why in (can_serve(parts) or "")


@pytest.mark.parametrize(
    "parts",
    [
        [[torch.zeros(4, 33)]],
        [[packed(4, 33)]],
        [[packed(4, 64, DType.i4, groups=2, zero=-8), packed(4, 96, DType.i4, groups=3)]],
    ],
)
def test_what_can_be_served_has_no_word_against_it(parts):
    assert can_serve(parts) is None
