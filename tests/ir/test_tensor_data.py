"""Tensors as stored bytes, and reading them from files."""

import re
from pathlib import Path

import pytest
import torch

from compiler.errors import CheckpointError
from compiler.ir.dtypes import DType
from compiler.ir.tensor_data import read_tensor, stored_bytes, view_bytes
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.torch_types import to_torch
from compiler.ir.types import TensorType


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("shape", [(2, 3), (5,), (), (0, 4)])
def test_values_come_back_from_their_bytes(dtype, shape):
    type_ = TensorType(dtype, shape)
    values = (torch.arange(type_.elements) % 2).view(shape).to(to_torch(dtype))
    data = stored_bytes(values, dtype)
    assert data.dtype == torch.uint8 and data.shape == (type_.nbytes,)
    seen = view_bytes(data, type_)
    assert seen.dtype == values.dtype and seen.shape == shape and torch.equal(seen.double(), values.double())


def test_bytes_are_viewed_where_aligned_and_copied_where_not():
    data = torch.arange(16, dtype=torch.uint8)
    assert view_bytes(data[4:12], TensorType(DType.f32, (2,))).data_ptr() == data.data_ptr() + 4
    assert view_bytes(data[3:7], TensorType(DType.i32, (1,))).item() == 3 + (4 << 8) + (5 << 16) + (6 << 24)


REF = TensorRef(TensorType(DType.f16, (4,)), "h.0.q", "x.bin", 3)


def test_a_tensor_is_read_at_its_offset_into_memory_of_its_own(tmp_path):
    values = torch.tensor([1.0, -2.0, 0.5, 8.0]).half()
    (tmp_path / "x.bin").write_bytes(b"abc" + values.numpy().tobytes() + b"rest")
    found = read_tensor(REF, tmp_path)
    assert torch.equal(found, values)
    found.zero_()
    assert torch.equal(read_tensor(REF, tmp_path), values)


def test_a_file_that_ends_inside_a_tensor_is_named_with_what_is_there(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"abcdefgh")
    wanted = f"{tmp_path / 'x.bin'} ends inside tensor 'h.0.q': 8 bytes at offset 3, only 5 there"
    with pytest.raises(CheckpointError, match=re.escape(wanted)) as error:
        read_tensor(REF, tmp_path)
    assert error.value.hint == "the file is truncated; copy or download it again"


def test_a_missing_file_is_named_with_the_tensor(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read tensor 'h.0.q' from .*x.bin: No such file") as error:
        read_tensor(REF, tmp_path)
    assert error.value.hint and "moved or deleted" in error.value.hint


def test_who_may_not_read_a_file_is_told_so(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match="Permission denied") as error:
        read_tensor(REF, tmp_path)
    assert error.value.hint == f"you may not read it: chmod +r {tmp_path / 'x.bin'}"
