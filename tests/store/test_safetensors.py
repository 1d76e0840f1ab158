"""Safetensors files: what is written is read by the format's own library, and the other way round."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from compiler.ir.dtypes import DType
from compiler.ir.tensor_data import read_tensor
from compiler.ir.torch_types import to_torch
from compiler.ir.types import TensorType
from compiler.store.safetensors_dtypes import SPELLINGS, bits_of, dtype_of
from compiler.store.safetensors_header import read_header
from compiler.store.safetensors_writer import SafetensorsWriter


def made(dtype):
    """Some small numbers of a type."""
    return (torch.arange(6) % 2).view(2, 3).to(to_torch(dtype))


def test_the_table_has_every_type_but_i4():
    assert set(DType) - set(SPELLINGS) == {DType.i4}
    assert all(dtype_of(spelling) is dtype and bits_of(spelling) == dtype.bits for dtype, spelling in SPELLINGS.items())
    assert (dtype_of("I16"), bits_of("I16")) == (None, 16)
    assert (dtype_of("F3"), bits_of("F3")) == (None, None)


def test_the_library_reads_what_is_written(tmp_path):
    types = {str(dtype): TensorType(dtype, (2, 3)) for dtype in SPELLINGS}
    with SafetensorsWriter(tmp_path / "x", types, {"made": "here"}) as writer:
        for dtype in reversed(list(SPELLINGS)):  # in any order
            writer.write(str(dtype), made(dtype))
    found = load_file(tmp_path / "x")
    assert {name: tensor.dtype for name, tensor in found.items()} == {str(d): to_torch(d) for d in SPELLINGS}
    assert all(torch.equal(found[str(dtype)].double(), made(dtype).double()) for dtype in SPELLINGS)
    with safe_open(tmp_path / "x", "pt") as opened:
        assert opened.metadata() == {"made": "here"}


def test_integers_of_4_bits_are_written_as_bytes(tmp_path):
    with SafetensorsWriter(tmp_path / "x", {"q": TensorType(DType.i4, (1, 3))}) as writer:
        writer.write("q", torch.tensor([[1, -8, 7]], dtype=torch.int8))
    assert load_file(tmp_path / "x")["q"].tolist() == [0x81, 0x07]


def test_the_data_begins_at_a_multiple_of_64_bytes(tmp_path):
    with SafetensorsWriter(
        tmp_path / "x", {"a": TensorType(DType.u8, (3,)), "b": TensorType(DType.u8, (1,))}
    ) as writer:
        assert writer.places["a"] % 64 == 0 and writer.places["b"] == writer.places["a"] + 3 and writer.total == 4


@pytest.mark.parametrize("dtype", SPELLINGS)
def test_what_the_library_writes_is_found(tmp_path, dtype):
    save_file({"a": torch.ones(5), "b": made(dtype)}, tmp_path / "x", {"format": "pt"})
    header = read_header(tmp_path / "x", "x")
    assert header.metadata == {"format": "pt"}
    found = header.tensors["b"]
    assert (found.file, found.spelling, found.dtype, found.shape) == ("x", SPELLINGS[dtype], dtype, (2, 3))
    assert found.nbytes == made(dtype).nbytes and found.elements == 6
    assert torch.equal(read_tensor(found.ref(), tmp_path).double(), made(dtype).double())


def test_tensors_come_in_the_order_of_their_bytes(tmp_path):
    save_file({"z": torch.ones(2), "a": torch.ones(3).half(), "m": torch.ones(1)}, tmp_path / "x")
    offsets = [tensor.offset for tensor in read_header(tmp_path / "x").tensors.values()]
    assert len(offsets) == 3 and offsets == sorted(offsets)


def test_types_that_the_ir_lacks_are_known_by_their_spelling(tmp_path):
    save_file({"a": torch.ones(3, dtype=torch.int16)}, tmp_path / "x")
    found = read_header(tmp_path / "x").tensors["a"]
    assert (found.dtype, found.spelling, found.nbytes) == (None, "I16", 6)


def write(path, header, data=b""):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[1]",
        b"\xff",
        {"a": {}},
        {"a": {"data_offsets": [0]}},
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": ["x", 1]}},
        {"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}},
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}},
        {"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 1]}},
        {"a": 3},
        {"__metadata__": 3},
    ],
)
def test_damaged_headers(tmp_path, header):
    write(tmp_path / "x", header, b"12")
    with pytest.raises(ValueError, match=r"^is no safetensors file: its header cannot be read"):
        read_header(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b"123", b"\2\0\0\0\0\0\0\0{", (2**62).to_bytes(8, "little") + b"{}"])
def test_files_that_end_inside_their_header(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=r"^is truncated: its header needs"):
        read_header(tmp_path / "x")


def test_a_file_that_ends_inside_a_tensor(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(whole[:-1])
    with pytest.raises(
        ValueError, match=f"^is truncated: it should have {len(whole):,} bytes but has {len(whole) - 1:,}"
    ):
        read_header(tmp_path / "x")
