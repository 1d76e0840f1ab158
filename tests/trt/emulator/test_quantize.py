"""Quantization and its inverse."""

import pytest
import torch

from compiler.errors import TargetError
from compiler.trt.emulator.memory import TORCH_TYPES
from tests.trt.emulator.networks import Network, bind, evaluate


def test_int8_rounds_halves_to_even_and_is_cut_to_its_range():
    x = torch.tensor([0.25, 0.75, 1.25, -0.25, 100.0, -100.0])
    result = evaluate("QUANTIZE", [x, torch.tensor(0.5)], "INT8", (6,), axis=0, to_type="INT8")
    assert result.dtype == torch.int8 and result.tolist() == [0, 2, 2, 0, 127, -128]


def test_fp8_saturates():
    x = torch.tensor([1.0, 1.0625, 1.1875, 1e6, -1e6])
    result = evaluate("QUANTIZE", [x, torch.tensor(1.0)], "FP8", (5,), axis=0, to_type="FP8")
    assert result.float().tolist() == [1.0, 1.0, 1.25, 448.0, -448.0]


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
