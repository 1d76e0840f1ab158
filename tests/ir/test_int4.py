"""Integers of 4 bits in bytes."""

import pytest
import torch

from compiler.ir.int4 import pack_int4, unpack_int4


def test_the_first_of_two_lies_in_the_low_half():
    assert pack_int4(torch.tensor([[1, 2], [-8, -1]], dtype=torch.int8)).tolist() == [0x21, 0xF8]
    assert unpack_int4(torch.tensor([0x21, 0xF8, 0x07], dtype=torch.uint8), 5).tolist() == [1, 2, -8, -1, 7]


def test_above_an_odd_last_one_are_zeros():
    assert pack_int4(torch.tensor([-1, 3, -7], dtype=torch.int8)).tolist() == [0x3F, 0x09]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 16, 33])
def test_unpacking_undoes_packing(count):
    values = (torch.arange(count) % 16 - 8).to(torch.int8)
    packed = pack_int4(values)
    assert packed.dtype == torch.uint8 and packed.numel() == (count + 1) // 2
    assert torch.equal(unpack_int4(packed, count), values)
