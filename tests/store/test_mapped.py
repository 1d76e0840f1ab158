"""Files of engines that are mapped into memory."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compiler.errors import EngineError
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType
from compiler.store.constant_loader import constant_loader
from compiler.store.mapped_file import AGAIN, MappedFile
from compiler.store.weight_bytes import WeightBytes

A, B = torch.tensor([1, 2, 3], dtype=torch.uint8), torch.tensor([1.5, -2.0])


@pytest.fixture
def path(tmp_path):
    save_file({"a": A, "b": B}, tmp_path / "w")
    return tmp_path / "w"


def test_a_tensor_is_seen_where_it_lies_and_the_file_stays_as_it_is(path):
    path.chmod(0o444)
    before = path.read_bytes()
    offset = before.index(B.numpy().tobytes())
    file = MappedFile(path)
    seen = file.view(TensorRef(TensorType(DType.f32, (2,)), "b", "w", offset))
    assert torch.equal(seen, B) and seen.data_ptr() == file.data.data_ptr() + offset
    seen.zero_()
    assert path.read_bytes() == before


def test_a_view_outlives_the_file_that_it_is_of(path):
    seen = MappedFile(path).view(TensorRef(TensorType(DType.u8, (8,)), "length", "w", 0))
    path.unlink()
    assert int.from_bytes(bytes(seen.tolist()), "little") > 0


@pytest.mark.parametrize("offset", [0, 10**6])
def test_a_file_that_ends_inside_a_tensor_is_named(path, offset):
    there = max(path.stat().st_size - offset, 0)
    wanted = f"{path} ends inside tensor 'long': 1000000 bytes at offset {offset}, only {there} there"
    with pytest.raises(EngineError, match=re.escape(wanted)) as error:
        MappedFile(path).view(TensorRef(TensorType(DType.u8, (10**6,)), "long", "w", offset))
    assert error.value.hint == AGAIN


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "w").touch()
    with pytest.raises(EngineError, match=re.escape(f"cannot read {tmp_path / 'w'}: it is empty")) as error:
        MappedFile(tmp_path / "w")
    assert error.value.hint == AGAIN


@pytest.mark.parametrize("read", [MappedFile, WeightBytes.mapped])
def test_files_that_cannot_be_read_are_named_with_the_reason(tmp_path, read):
    with pytest.raises(EngineError, match=re.escape(f"cannot read {tmp_path / 'w'}: No such file")) as error:
        read(tmp_path / "w")
    assert error.value.hint == AGAIN
    (tmp_path / "w").mkdir()
    with pytest.raises(EngineError, match=re.escape(f"cannot read {tmp_path / 'w'}: Is a directory")):
        read(tmp_path / "w")


@pytest.mark.parametrize("read", [MappedFile, WeightBytes.mapped])
def test_who_may_not_read_a_file_is_told_so(path, read, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(EngineError, match="Permission denied") as error:
        read(path)
    assert error.value.hint == f"you may not read it: chmod +r {path}"


def test_weights_are_the_bytes_of_tensors_by_name(path):
    weights = WeightBytes.mapped(path)
    assert weights.view("a", 3).tolist() == [1, 2, 3] and weights.view("a", 2, 1).tolist() == [2, 3]
    assert torch.equal(weights.view("b", 8).view(torch.float32), B)
    assert weights.view("a", 0, 3).numel() == 0


@pytest.mark.parametrize(
    ("name", "nbytes", "offset", "message"),
    [
        ("c", 1, 0, "w has no tensor 'c'"),
        ("__metadata__", 0, 0, "w has no tensor '__metadata__'"),
        ("b", 16, 0, "the tensor 'b' has 8 bytes, but the engine reads 16 from byte 0 on"),
        ("b", 8, 4, "the tensor 'b' has 8 bytes, but the engine reads 8 from byte 4 on"),
        ("b", 4, -4, "the tensor 'b' has 8 bytes, but the engine reads 4 from byte -4 on"),
    ],
)
def test_weights_that_are_absent_or_too_short_are_named(path, name, nbytes, offset, message):
    with pytest.raises(EngineError, match=re.escape(message)) as error:
        WeightBytes.mapped(path).view(name, nbytes, offset)
    assert error.value.hint


@pytest.mark.parametrize("content", [b"weights", b"\0" * 8, b"\xff" * 16, b"\2" + b"\0" * 7 + b"[]"])
def test_weights_of_other_files_are_refused(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(EngineError, match=r"w is (no safetensors file: its header cannot be read|truncated)"):
        WeightBytes.mapped(tmp_path / "w")


def test_constants_are_views_of_one_mapping_of_their_file(path):
    b = Builder()
    offset = path.read_bytes().index(B.numpy().tobytes())
    refs = {name: TensorRef(TensorType(DType.f32, (1,)), name, "w", offset + at) for name, at in (("x", 0), ("y", 4))}
    values = {name: b.const(data=ref, name=name) for name, ref in refs.items()}
    half = b.literal(values=(0.5,), dtype=DType.f32, shape=(1,), name="half")
    sum_ = b.add(values["x"], half, name="sum")
    graph = b.build()
    object.__setattr__(graph, "root", str(path.parent))
    load = constant_loader(graph)
    found = {name: load(value) for name, value in values.items()}
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"x": [1.5], "y": [-2.0]}
    assert found["y"].data_ptr() == found["x"].data_ptr() + 4
    assert load(half).tolist() == [0.5]
    with pytest.raises(EngineError, match="%sum is a constant that was not computed when the engine was built"):
        load(sum_)
