"""Tensors over raw addresses."""

import pytest
import torch

from compiler.trt_emulator.memory import TORCH_TYPES, DataType, byte_count, convert, from_bytes, tensor_at


def test_every_type_has_a_torch_type():
    assert set(TORCH_TYPES) == set(DataType.__members__)


@pytest.mark.parametrize("dtype", [name for name in TORCH_TYPES if name != "INT4"])
def test_a_tensor_at_an_address_shares_its_memory(dtype):
    x = torch.arange(6).remainder(2).reshape(2, 3).to(TORCH_TYPES[dtype])
    y = tensor_at(x.data_ptr(), dtype, (2, 3))
    assert y.dtype == x.dtype and torch.equal(y.float(), x.float())
    y.copy_((1 - x.float()).to(x.dtype))
    assert x.float().flatten().tolist() == [1, 0, 1, 0, 1, 0]


def test_empty_tensors_need_no_memory():
    assert tensor_at(0, "HALF", (2, 0)).shape == (2, 0)


def test_int4_lies_two_to_a_byte_with_the_low_half_first():
    data = torch.tensor([0x21, 0xF8, 0x07], dtype=torch.uint8)
    assert from_bytes(data, "INT4", (5,)).tolist() == [1, 2, -8, -1, 7]
    assert byte_count("INT4", (5,)) == 3 and byte_count("HALF", (5,)) == 10


def test_bytes_are_viewed_where_aligned_and_copied_where_not():
    data = torch.arange(16, dtype=torch.uint8)
    assert from_bytes(data[4:12], "FLOAT", (2,)).data_ptr() == data.data_ptr() + 4
    assert from_bytes(data[3:7], "INT32", (1,)).item() == 3 + (4 << 8) + (5 << 16) + (6 << 24)


def test_fp8_saturates_and_bool_is_whether_it_is_zero():
    assert convert(torch.tensor([1e9, -1e9]), "FP8").float().tolist() == [448, -448]
    assert convert(torch.tensor([0.0, -0.5]), "BOOL").tolist() == [False, True]
