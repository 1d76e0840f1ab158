"""GPTQ against its objective, minimized in closed form."""

import itertools

import pytest
import torch

from compiler.errors import PassError
from compiler.passes.quant.algorithms.awq import squared_error
from compiler.passes.quant.algorithms.gptq import factorize, gptq
from compiler.passes.quant.algorithms.scheme import FloatScheme, IntegerScheme, Scales


def _inputs(width, count=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing


def _by_least_squares(weight, x, scheme, order, damping):
    """Round one column after the other; the rest is fitted anew each time, by least squares on the inputs."""
    rows, width = weight.shape
    ridge = (2 * damping * x.square().sum(0).mean() / 2).sqrt() * torch.eye(width, dtype=torch.float64)
    design = torch.cat([x, ridge])  # damping is a ridge
    target = design @ weight.double().T
    scale = scheme.scales(weight).scale
    result = torch.zeros(rows, width, dtype=torch.float64)
    values = torch.zeros(rows, width, dtype=torch.int8)
    left = list(order)
    while left:
        rest = target - design @ result.T
        fitted = torch.linalg.lstsq(design[:, left], rest).solution.T
        column = left.pop(0)
        group = column // scheme.width(width)
        scales = Scales(scale[:, group : group + 1])
        rounded = scheme.nearest(fitted[:, :1], scales)
        values[:, column] = rounded.values[:, 0]
        result[:, column] = rounded.dense()[:, 0].double()
    return values


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("group", [0, 4])
def test_equals_least_squares_column_by_column(bits, group):
    x, weight = _inputs(12), torch.randn(6, 12, generator=torch.Generator().manual_seed(3))
    scheme = IntegerScheme(bits, group)
    gram = x.T @ x
    factor = factorize(gram, damping=0.01, order=True)
    assert factor.order.tolist() == gram.diagonal().argsort(descending=True).tolist() != list(range(12))
    expected = _by_least_squares(weight, x, scheme, factor.order.tolist(), 0.01)
    assert torch.equal(gptq(weight, factor, scheme).values, expected)


def test_blocks_change_nothing(monkeypatch):
    x, weight = _inputs(48, seed=4), torch.randn(8, 48, generator=torch.Generator().manual_seed(4))
    for order, scheme in itertools.product(
        [False, True], [IntegerScheme(4, 16), IntegerScheme(3), IntegerScheme(4, 16, True)]
    ):
        factor = factorize(x.T @ x, order=order)
        whole = gptq(weight, factor, scheme)
        monkeypatch.setattr("compiler.passes.quant.algorithms.gptq.BLOCK", 7)
        parts = gptq(weight, factor, scheme)
        monkeypatch.undo()
        assert torch.equal(whole.values, parts.values)
        torch.testing.assert_close(whole.scales.scale, parts.scales.scale)


def test_first_column_of_two_is_rounded_and_the_second_is_the_best_there_is():
    x, scheme = _inputs(2, seed=5), IntegerScheme(3)
    weight = torch.randn(20, 2, generator=torch.Generator().manual_seed(5))
    gram = x.T @ x
    rounded = gptq(weight, factorize(gram, damping=0.0, order=False), scheme)
    scale = scheme.scales(weight).scale
    for row in range(20):
        first = rounded.values[row, 0]
        tries = [
            squared_error((torch.stack([first, torch.tensor(c)]) * scale[row] - weight[row])[None].double(), gram)
            for c in range(scheme.low, scheme.high + 1)
        ]
        chosen = tries[int(rounded.values[row, 1]) - scheme.low]
        torch.testing.assert_close(chosen, torch.stack(tries).min(), rtol=1e-5, atol=1e-6)  # there are ties


@pytest.mark.parametrize("order", [False, True])
def test_loses_less_than_rounding_to_nearest(order):
    x, weight = _inputs(64, 500, seed=6), torch.randn(32, 64, generator=torch.Generator().manual_seed(6))
    gram = x.T @ x
    for bits in (3, 4):
        scheme = IntegerScheme(bits, 32)
        ours = squared_error((gptq(weight, factorize(gram, order=order), scheme).dense() - weight).double(), gram)
        nearest = squared_error((scheme.nearest(weight).dense() - weight).double(), gram)
        assert ours < 0.7 * nearest


@pytest.mark.parametrize("whole", [True, False])
def test_floats_lose_less_too(whole):
    x, weight = _inputs(64, 500, seed=7), torch.randn(32, 64, generator=torch.Generator().manual_seed(7))
    scheme, gram = FloatScheme(whole), x.T @ x
    rounded = gptq(weight, factorize(gram), scheme)
    assert rounded.values.dtype is torch.float8_e4m3fn
    ours = squared_error((rounded.dense() - weight).double(), gram)
    assert ours < 0.7 * squared_error((scheme.nearest(weight).dense() - weight).double(), gram)


def test_inputs_that_are_always_zero_have_weights_of_zero():
    x = _inputs(8)
    x[:, 3] = 0
    rounded = gptq(torch.ones(2, 8), factorize(x.T @ x), IntegerScheme(4))
    assert not rounded.values[:, 3].any() and rounded.values[:, 2].any()


def test_dependent_inputs_need_damping():
    gram = torch.ones(4, 4)
    with pytest.raises(PassError, match=r"inputs of model\.fc1 depend") as caught:
        factorize(gram, damping=0.0, name="model.fc1")
    assert "damping=0.1" in str(caught.value)
    factorize(gram, damping=0.1)
