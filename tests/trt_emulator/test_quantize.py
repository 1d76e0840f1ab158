"""Quantization and its inverse."""

import math

import pytest
import torch

from compiler.errors import TargetError
from compiler.trt_emulator.memory import TORCH_TYPES
from tests.trt_emulator.networks import Network, bind, evaluate


def quantized(values, scale, dtype, to_type):
    """The values quantized by one scale, both of the same float type."""
    kind = TORCH_TYPES[dtype]
    x = torch.tensor(values, dtype=kind)
    result = evaluate("QUANTIZE", [x, torch.tensor(scale, dtype=kind)], to_type, x.shape, axis=0, to_type=to_type)
    assert result.dtype == TORCH_TYPES[to_type]
    return result.float().tolist()


@pytest.mark.parametrize("dtype", ["FLOAT", "HALF", "BF16"])
def test_int8_rounds_halves_to_even_and_is_cut_to_its_range(dtype):
    values = [0.25, 0.75, 1.25, -0.25, -0.75, 63.25, 63.5, 100.0, -64.0, -64.5, -100.0]
    assert quantized(values, 0.5, dtype, "INT8") == [0, 2, 2, 0, -2, 126, 127, 127, -128, -128, -128]


@pytest.mark.parametrize(("dtype", "nan"), [("FLOAT", 0), ("HALF", 127)])
def test_int8_of_what_is_not_finite(dtype, nan):
    assert quantized([math.nan, math.inf, -math.inf], 2.0, dtype, "INT8") == [nan, 127, -128]


def test_int8_multiplies_by_the_inverse_of_the_scale():
    # float32(1/7) is a little more than 1/7, so 45.5 * (1/7) is 6.5000005; 45.5 / 7 is 6.5, which would become 6.
    assert quantized([45.5], 7.0, "FLOAT", "INT8") == [7]


def test_int8_with_a_float16_scale_rounds_the_inverse_and_the_product_to_float16():
    # The scale is 0.0999756, its inverse 10.0024, in float16 10. 1.25 / 0.0999756 is 12.503, which would become 13.
    assert quantized([1.25], 0.1, "HALF", "INT8") == [12]
    # The inverse of 0.300049 in float16 is 3.33203. 5.25 times that is 17.4932, which would become 17. In float16,
    # whose numbers there are 1/64 apart, it is 17.5, and the half goes to even.
    assert quantized([5.25], 0.3, "HALF", "INT8") == [18]


def test_fp8_saturates_also_for_infinities_and_keeps_nan():
    values = [448.0, 460.0, 1e4, -1e4, math.inf, -math.inf]
    for dtype in ("FLOAT", "HALF"):
        assert quantized(values, 1.0, dtype, "FP8") == [448, 448, 448, -448, 448, -448]
        assert math.isnan(quantized([math.nan], 1.0, dtype, "FP8")[0])


@pytest.mark.parametrize("dtype", ["FLOAT", "HALF"])
def test_fp8_rounds_halves_to_even(dtype):
    # Numbers from 1 to 2 are 1/8 apart, from 2 to 4 1/4; the least above zero is 2**-9.
    values = [1.0625, 1.1875, -1.3125, 2.125, 2.375, 2**-10, 3 * 2**-10]
    assert quantized(values, 1.0, dtype, "FP8") == [1, 1.25, -1.25, 2, 2.5, 0, 2**-8]


def test_fp8_with_a_float16_scale_rounds_the_quotient_to_float16_first():
    # 2.123046875 / 1.998046875 is 1.06256, above the half between 1 and 1.125. In float16 it is that half, 1.0625.
    assert quantized([2.123046875], 1.998046875, "FLOAT", "FP8") == [1.125]
    assert quantized([2.123046875], 1.998046875, "HALF", "FP8") == [1]


@pytest.mark.parametrize(("shape", "axis"), [((4,), 0), ((4,), -2), ((6,), 1), ((4, 2), 1), ((2, 6), 0)])
def test_quantize_by_axis_and_block(shape, axis):
    x = torch.arange(-12.0, 12.0).reshape(4, 6)
    scale = torch.tensor([0.5, 1, 2, 4]).repeat(3)[: math.prod(shape)].reshape(shape)
    whole = scale
    if scale.ndim == 1:
        whole = scale.reshape(4, 1) if len(scale) == 4 else scale.reshape(1, 6)
    whole = whole.repeat_interleave(4 // whole.shape[0], 0).repeat_interleave(6 // whole.shape[1], 1)
    result = evaluate("QUANTIZE", [x, scale], "INT8", x.shape, axis=axis, to_type="INT8")
    assert torch.equal(result, (x / whole).round().to(torch.int8))


def int4_and_back(x, scale, axis):
    network = Network()
    network.input("x", "FLOAT", x.shape)
    network.input("scale", "FLOAT", scale.shape)
    network.layer("QUANTIZE", ["x", "scale"], "q", "INT4", x.shape, axis=axis, to_type="INT4")
    network.layer("DEQUANTIZE", ["q", "scale"], "y", "FLOAT", x.shape, axis=axis, to_type="FLOAT")
    context = network.engine("y").create_execution_context()
    bound = bind(context, {"x": x, "scale": scale})
    assert context.execute_async_v3(0)
    return bound["y"]


def test_int4_is_cut_to_its_range():
    x = torch.tensor([-9.0, -8.0, 0.5, 1.5, 7.0, 8.0])
    assert int4_and_back(x, torch.tensor(1.0), 0).tolist() == [-8, -8, 0, 2, 7, 7]


@pytest.mark.parametrize("dtype", ["FLOAT", "HALF", "BF16"])
@pytest.mark.parametrize("source", ["INT8", "FP8"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((), 0), ((1,), 0), ((4,), 0), ((6,), 1), ((4, 2), 1), ((2, 6), 0), ((2, 3), 0)]
)
def test_dequantize_by_tensor_axis_and_block(shape, axis, source, dtype):
    torch.manual_seed(1)
    q = torch.randint(-100, 100, (4, 6)).float().to(TORCH_TYPES[source])
    scale = (torch.rand(shape) + 0.5).to(TORCH_TYPES[dtype])
    exact = torch.empty(4, 6, dtype=torch.float64)
    for row in range(4):
        for column in range(6):
            if scale.numel() == 1:
                one = scale.flatten()[0]
            elif scale.ndim == 1:
                one = scale[(row, column)[axis]]
            else:
                one = scale[row * shape[0] // 4, column * shape[1] // 6]
            exact[row, column] = q[row, column].double() * one.double()
    result = evaluate("DEQUANTIZE", [q, scale], dtype, (4, 6), axis=axis, to_type=dtype)
    assert result.dtype == TORCH_TYPES[dtype]
    torch.testing.assert_close(result, exact.to(TORCH_TYPES[dtype]), rtol=1e-6, atol=0)


def test_scales_must_fit():
    q = torch.zeros(4, 6, dtype=torch.int8)
    with pytest.raises(TargetError, match=r"\(DEQUANTIZE\) has scales of shape \[3\] for \[4, 6\]"):
        evaluate("DEQUANTIZE", [q, torch.ones(3)], "FLOAT", (4, 6), axis=0, to_type="FLOAT")
