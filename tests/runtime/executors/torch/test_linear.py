"""Every kernel for linear layers against float64."""

import pytest
import torch

from runtime.executors.torch import linear


@pytest.mark.parametrize("rows", [1, 3, 8, 64])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("pack", "stored", "tolerance"),
    [
        # One rounding of a float32 sum of 96 terms, and headroom for its order: 96 * 2**-24.
        (linear._pack_float32, torch.float32, 6e-6),
        (linear._dense_float32, torch.float32, 6e-6),
        (linear._plain, torch.float32, 6e-6),
        (linear._plain, torch.bfloat16, 6e-6),
        (linear._pack_float16, torch.float16, 6e-6),
        (linear._pack_float16, torch.bfloat16, 6e-6),
        # The activations and the result are rounded to 8 bits.
        (linear._pack_bfloat16, torch.bfloat16, 2 * 2**-8),
    ],
)
def test_kernels_agree_with_float64(pack, stored, tolerance, with_bias, rows):
    if not linear._works(pack) and pack is not linear._plain:
        pytest.skip(f"{pack.__name__} is not available here")
    torch.manual_seed(rows)
    weight, x = torch.randn(40, 96).to(stored), torch.randn(2, rows, 96)
    bias = torch.randn(40).to(stored) if with_bias else None
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    found = pack(weight, None if bias is None else bias.float())(x)
    strided = torch.cat((x, x), -1).split(96, -1)[1]
    assert torch.equal(pack(weight, None if bias is None else bias.float())(strided), found)
    assert found.dtype is torch.float32
    assert found.shape == expected.shape
    assert (found - expected).norm() / expected.norm() < tolerance


def test_bfloat16_weights_beyond_float16_are_not_cut_off():
    weight = torch.full((8, 16), 1e30, dtype=torch.bfloat16)
    result = linear.pack_linear(weight, None, rows=1)(torch.ones(1, 16))
    torch.testing.assert_close(result, torch.full((1, 8), 16e30), rtol=1e-2, atol=0)


def test_a_missing_kernel_is_noticed():
    def broken(weight, bias):
        raise AttributeError("no such operator")

    assert not linear._works(broken)
    assert not linear._works(lambda weight, bias: lambda x: torch.zeros(3, 8))
