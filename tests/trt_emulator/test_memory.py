"""Tensors over raw addresses."""

import pytest
import torch

from compiler.trt_emulator.memory import TORCH_TYPES, convert, tensor_at
from compiler.trt_network.dtypes import DataType


def test_the_emulator_has_the_types_of_the_ir():
    assert set(TORCH_TYPES) == set(DataType.__members__) - {"FP4", "E8M0"}


@pytest.mark.parametrize("dtype", [name for name in TORCH_TYPES if name != "INT4"])
def test_a_tensor_at_an_address_shares_its_memory(dtype):
    x = torch.arange(6).remainder(2).reshape(2, 3).to(TORCH_TYPES[dtype])
    y = tensor_at(x.data_ptr(), dtype, (2, 3))
    assert y.dtype == x.dtype and torch.equal(y.float(), x.float())
    y.copy_((1 - x.float()).to(x.dtype))
    assert x.float().flatten().tolist() == [1, 0, 1, 0, 1, 0]


def test_empty_tensors_need_no_memory():
    assert tensor_at(0, "HALF", (2, 0)).shape == (2, 0)


def test_fp8_saturates_and_bool_is_whether_it_is_zero():
    assert convert(torch.tensor([1e9, -1e9]), "FP8").float().tolist() == [448, -448]
    assert convert(torch.tensor([0.0, -0.5]), "BOOL").tolist() == [False, True]
