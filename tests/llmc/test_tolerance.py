"""How far logits may differ before rounding does not explain it."""

from __future__ import annotations

import math

import pytest
import torch

import llmc
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from llmc.tolerance import logits_tolerance, quantization_step


@pytest.mark.parametrize(("dtype", "steps"), [(DType.i8, 127), (DType.f8e4m3, None)])
def test_values_that_differ_by_rounding_get_codes_that_differ_as_is_said(dtype, steps):
    """The claim behind the tolerance: an RMS of sqrt(eps * step), within a factor of two."""
    torch.manual_seed(0)
    x = torch.randn(200_000, dtype=torch.float64)
    eps = torch.finfo(torch.float16).eps
    other = x * (1 + eps * torch.randn_like(x))
    if steps:
        scale = x.abs().max() / steps
        a, b = ((value / scale).round() * scale for value in (x, other))
    else:
        a, b = ((value * 100).to(torch.float8_e4m3fn).double() / 100 for value in (x, other))
    found = ((a - b).norm() / x.norm()).item()
    said = math.sqrt(eps * {DType.i8: 1 / 32, DType.f8e4m3: 1 / 8}[dtype])
    assert said / 2.5 < found < said * 2.5


def test_the_step_is_that_of_what_a_run_quantizes():
    b = Builder("g")
    x = b.input("x", DType.f32, 2, 8)
    scale = b.literal(dtype=DType.f32, shape=(1, 1), values=(0.5,))
    weight = b.literal(dtype=DType.f32, shape=(4, 8), values=(0.25,))
    stored = b.dequantize(b.quantize(weight, scale, dtype=DType.f8e4m3), scale, dtype=DType.f32)
    b.output("y", b.linear(b.dequantize(b.quantize(x, scale, dtype=DType.i8), scale, dtype=DType.f32), stored))
    assert quantization_step(b.build()) == 1 / 32
    assert quantization_step(llmc.lift("examples/models/opt-tiny")) == 0.0


def test_coarser_types_and_more_layers_allow_more():
    fine, coarse = logits_tolerance("float16", 4), logits_tolerance("float16", 4, 1 / 32)
    assert logits_tolerance("float32", 4) < fine < coarse < logits_tolerance("float16", 16, 1 / 8)
