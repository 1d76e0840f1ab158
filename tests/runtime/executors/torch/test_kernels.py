"""The executor's kernels against the interpreter's evaluators."""

import pytest
import torch

import compiler.ir.evaluators.nn  # noqa: F401 - registers them
from compiler.ir.evaluators.core import evaluator
from runtime.executors.torch import kernels


def meaning(kind, *operands, **attrs):
    return evaluator(kind).compute(attrs, {}, *operands)


@pytest.mark.parametrize("width", [2, 6, 8])
def test_rotary(width):
    torch.manual_seed(0)
    x, angles = torch.randn(2, 3, 5, 8), torch.randn(2, 5, width // 2)
    cos, sin = angles.cos(), angles.sin()
    halves = kernels.rotate_halves(x, kernels.half_angles(cos, sin))
    torch.testing.assert_close(halves, meaning("rotary", x, cos, sin, interleaved=False))
    # A transposed view, which is what a step gives.
    view = x.transpose(1, 2).contiguous().transpose(1, 2)
    pairs = kernels.rotate_pairs(view, kernels.pair_angles(cos, sin))
    torch.testing.assert_close(pairs, meaning("rotary", x, cos, sin, interleaved=True))
    assert torch.equal(view, x)


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("with_bias", [False, True])
def test_attention(length, kv_heads, with_bias):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, length, 8), torch.randn(2, kv_heads, 6, 8), torch.randn(2, kv_heads, 6, 8)
    mask = torch.rand(2, 1, length, 6) < 0.5
    mask[..., 0] = True
    bias = torch.randn(4, length, 6) if with_bias else None
    expected = meaning("attention", q, k, v, mask, *([bias] if with_bias else []), scale=0.3, rounded=False)
    additive = kernels.additive_mask(mask, bias, torch.float32)
    torch.testing.assert_close(kernels.attention(q, k, v, additive, 0.3), expected, rtol=1e-5, atol=1e-6)


def test_gather_rows():
    x = torch.arange(12.0).reshape(2, 3, 2)
    rows = torch.tensor([[2, 0], [1, 1]])
    assert torch.equal(kernels.gather_rows(x, rows), meaning("gather_rows", x, rows))
    assert kernels.gather_rows(x[:, :1], torch.zeros(2, 1, dtype=torch.int32)).shape == (2, 1, 2)
