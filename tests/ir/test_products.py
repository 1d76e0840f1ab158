"""Products of float32 matrices."""

import torch

from compiler.ir import products
from compiler.ir.products import product


def _case(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((2, 7, 48), (96, 48), (96,)))
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def test_large_products_are_those_of_small_ones(monkeypatch):
    x, weight, bias = _case()
    strided = weight.T.contiguous().T
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    for large in (0, 2**40):
        monkeypatch.setattr(products, "_LARGE", large)
        for given in (weight, strided):
            # Sums of 48 products of numbers up to about 4: rounded to float32, off by some 48 * 16 * 2^-24 at most.
            torch.testing.assert_close(product(x, given, bias).double(), expected, rtol=0, atol=1e-4)
        assert product(x, weight).shape == (2, 7, 96)


def test_large_products_of_other_types_are_torchs(monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 0)
    for dtype in (torch.float64, torch.bfloat16):
        x, weight, bias = _case(dtype)
        assert torch.equal(product(x, weight, bias), torch.nn.functional.linear(x, weight, bias))


def test_what_is_differentiated_is_torchs(monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 0)
    x, weight, _ = _case()
    weight.requires_grad_()
    product(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum((0, 1)).expand(96, 48))
