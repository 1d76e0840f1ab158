"""Constants are computed in file order, once, and freed."""

import weakref

import torch

from compiler.ir.builder import Builder
from compiler.ir.constants import needed_constants, stream_constants
from compiler.ir.dtypes import DType
from compiler.ir.tensor_data import read_tensor
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType


def file_of(tmp_path, *tensors):
    """A file that holds float32 tensors one after the other, and references to them."""
    data, refs = b"", []
    for i, tensor in enumerate(tensors):
        refs.append(TensorRef(TensorType(DType.f32, tuple(tensor.shape)), f"t{i}", "weights.bin", len(data)))
        data += tensor.numpy().tobytes()
    (tmp_path / "weights.bin").write_bytes(data)
    return refs


def test_weights_come_in_the_order_of_the_file(tmp_path):
    first, second = torch.arange(6.0).reshape(2, 3), torch.arange(8.0).reshape(4, 2)
    refs = file_of(tmp_path, first, second)
    b = Builder()
    x, y = b.input("x", DType.f32, 1, 2), b.input("y", DType.f32, 1, 3)
    late = b.linear(x, b.const(data=refs[1], name="late"))
    early = b.linear(y, b.const(data=refs[0], name="early"))
    b.output("a", late)
    b.output("b", early)
    graph = b.build(str(tmp_path))
    assert [value.name for value in needed_constants(graph)] == ["early", "late"]
    streamed = {value.name: tensor for value, tensor in stream_constants(graph)}
    assert list(streamed) == ["early", "late"]
    assert torch.equal(streamed["early"], first)
    assert torch.equal(streamed["late"], second)


def test_a_fused_weight_is_read_once_and_its_pieces_are_contiguous(tmp_path, monkeypatch):
    fused = torch.arange(12.0).reshape(6, 2)
    refs = file_of(tmp_path, fused)
    b = Builder()
    x = b.input("x", DType.f32, 1, 6)
    turned = b.transpose(b.const(data=refs[0]), perm=(1, 0))
    first, second = b.split(turned, axis=0, sizes=(1, 1), names=("first", "second"))
    b.output("y", b.add(b.linear(x, first), b.linear(x, second)))
    reads = []

    def counted(ref, root):
        reads.append(ref.name)
        return read_tensor(ref, root)

    monkeypatch.setattr("compiler.ir.tensor_data.read_tensor", counted)
    streamed = {value.name: tensor for value, tensor in stream_constants(b.build(str(tmp_path)))}
    assert reads == ["t0"]
    assert torch.equal(streamed["second"], fused.T[1:])
    assert all(tensor.is_contiguous() for tensor in streamed.values())


def test_a_weight_is_freed_before_the_next_is_read(tmp_path, monkeypatch):
    refs = file_of(tmp_path, *[torch.ones(4, 4) * i for i in range(5)])
    b = Builder()
    x = b.input("x", DType.f32, 1, 4)
    for ref in refs:
        x = b.linear(x, b.cast(b.const(data=ref), dtype=DType.f32))
    b.output("y", x)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most: list[int] = []

    def counted(ref, root):
        tensor = read_tensor(ref, root)
        alive.add(tensor)
        most.append(len(alive))
        return tensor

    monkeypatch.setattr("compiler.ir.tensor_data.read_tensor", counted)
    for _ in stream_constants(b.build(str(tmp_path))):
        pass
    assert len(most) == 5
    assert max(most) <= 2


def test_literals_stay_in_the_graph():
    b = Builder()
    x = b.input("x", DType.f32, 3)
    b.output("y", b.add(x, b.literal(dtype=DType.f32, shape=(3,), values=(1.0, 2.0, 3.0))))
    assert needed_constants(b.build()) == []
