"""Tensors of a safetensors file as bytes."""

import json

import pytest
import torch
from safetensors.torch import save_file

from compiler.errors import EngineError
from compiler.trt_emulator.weights_file import WeightsFile


@pytest.fixture
def path(tmp_path):
    save_file({"a": torch.tensor([1, 2, 3], dtype=torch.uint8), "b": torch.tensor([1.5, -2.0])}, tmp_path / "w")
    return tmp_path / "w"


def write(path, header, data=b""):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)


def test_what_safetensors_wrote(path):
    file = WeightsFile(path)
    assert file.view("a", 0, 3).tolist() == [1, 2, 3] and file.view("a", 1, 2).tolist() == [2, 3]
    assert file.view("b", 0, 8).view(torch.float32).tolist() == [1.5, -2.0]
    assert file.view("a", 3, 0).numel() == 0


def test_other_tensors_and_bytes_past_the_end(path):
    file = WeightsFile(path)
    for name, offset, nbytes in (("c", 0, 1), ("a", 2, 2), ("a", -1, 1), ("a", 0, 4), ("__metadata__", 0, 0)):
        with pytest.raises(EngineError, match=repr(name)):
            file.view(name, offset, nbytes)


def test_a_file_that_ends_inside_a_tensor(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match="is truncated"):
        WeightsFile(path)


@pytest.mark.parametrize(
    "header",
    [b"{", b"[1]", b"\xff", {"a": {}}, {"a": {"data_offsets": [0]}}, {"a": {"data_offsets": ["x", 1]}}, {"a": 3}],
)
def test_damaged_headers(tmp_path, header):
    write(tmp_path / "w", header)
    with pytest.raises(EngineError, match=str(tmp_path / "w")):
        WeightsFile(tmp_path / "w")


@pytest.mark.parametrize("content", [None, b"", b"123", b"\2\0\0\0\0\0\0\0{", (2**62).to_bytes(8, "little") + b"{}"])
def test_files_that_are_no_safetensors(tmp_path, content):
    if content is not None:
        (tmp_path / "w").write_bytes(content)
    with pytest.raises(EngineError, match=str(tmp_path / "w")):
        WeightsFile(tmp_path / "w")
