"""The two searches of AWQ, against trying everything."""

import pytest
import torch

from compiler.passes.quant.algorithms.awq import candidate, search_clipping, search_scales, squared_error
from compiler.passes.quant.algorithms.scheme import IntegerScheme, Scales


def _case(seed=0, width=16):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, width, generator=generator)
    x[:, 1] *= 30
    x[:, 5] *= 8
    return x, torch.randn(8, width, generator=generator)


def test_error_is_that_of_outputs():
    x, _ = _case()
    change = torch.randn(8, 16)
    torch.testing.assert_close(squared_error(change, x.T @ x), (x @ change.T).square().sum(), rtol=1e-4, atol=0)


def test_scales_are_the_best_of_the_twenty():
    x, weight = _case()
    scheme, mean = IntegerScheme(3, 8), x.abs().mean(0)
    scales = search_scales([weight], mean, x.T @ x, scheme)

    def output_error(s):
        return (x / s @ scheme.nearest(weight * s).dense().T - x @ weight.T).square().sum()

    errors = torch.stack([output_error(candidate(mean, step / 20)) for step in range(20)])
    assert errors.argmin() > 0  # outliers pay
    torch.testing.assert_close(output_error(scales), errors.min(), rtol=1e-3, atol=0)


def test_scales_serve_all_linears_of_an_input():
    x, weight = _case()
    both = search_scales([weight, weight], x.abs().mean(0), x.T @ x, IntegerScheme(4))
    assert torch.equal(both, search_scales([weight], x.abs().mean(0), x.T @ x, IntegerScheme(4)))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_clipping_is_the_best_of_each_block(asymmetric, monkeypatch):
    monkeypatch.setattr("compiler.passes.quant.algorithms.awq.CHUNK", 48)  # of three rows
    x, weight = _case(seed=1)
    scheme = IntegerScheme(3, 8, asymmetric)
    found = search_clipping(weight, x.T @ x, scheme)
    for row in range(8):
        for block in range(2):
            columns = slice(8 * block, 8 * block + 8)
            piece, inputs = weight[row : row + 1, columns], x[:, columns]

            def error(scales, piece=piece, inputs=inputs):
                return float((inputs @ (scheme.nearest(piece, scales).dense() - piece).T).square().sum())

            tries = []
            for step in range(20):
                ratio = 1 - 0.5 * step / 20
                narrow = piece.clamp(piece.min() * ratio, piece.max() * ratio) if asymmetric else piece * ratio
                tries.append(error(scheme.scales(narrow)))
            zero = None if found.zero is None else found.zero[row : row + 1, block : block + 1]
            ours = error(Scales(found.scale[row : row + 1, block : block + 1], zero))
            assert ours == pytest.approx(min(tries), rel=1e-3)


def test_channels_without_inputs_are_no_obstacle():
    x, weight = _case()
    x[:, 2] = 0
    scales = search_scales([weight], x.abs().mean(0), x.T @ x, IntegerScheme(4))
    assert bool(torch.isfinite(scales).all()) and bool((scales > 0).all())
