"""The weights of a rank in memory."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from compiler.errors import EngineError, TargetError
from compiler.ir.tensor_data import pack_int4
from compiler.trt_network.record import Part, Quantized, Weight
from compiler.trt_network.weight_file import read_spans
from runtime.executors.tensorrt.weights import load_weights, map_weights

CPU = torch.device("cpu")


@pytest.fixture
def file(tmp_path):
    """A file in which `odd` and what follows it are not aligned to four bytes, and its tensors."""
    tensors = {
        "matrix": torch.arange(12, dtype=torch.float32).view(3, 4),
        "odd": torch.tensor([1, 2, 3], dtype=torch.int8),
        "after": torch.tensor([5.0, 6.0], dtype=torch.float16),
    }
    path = tmp_path / "rank0.safetensors"
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for (name, tensor), dtype in zip(tensors.items(), ("F32", "I8", "F16"), strict=True):
        content = tensor.numpy().tobytes()
        span = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": span}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path, tensors


def loaded(path, names=("matrix", "odd", "after"), room=None):
    return load_weights(path, map(Weight, names), CPU, (room if room is not None else []).append)


@pytest.mark.parametrize("read", [map_weights, loaded])
def test_values_lie_at_their_addresses(file, read) -> None:
    path, tensors = file
    weights = read(path)
    for name, tensor in tensors.items():
        view = weights.view(Weight(name), tensor.nbytes)
        assert torch.equal(view.view(tensor.dtype).view(tensor.shape), tensor)
        assert weights.address(Weight(name), tensor.nbytes) == view.data_ptr()
        assert view.data_ptr() % tensor.itemsize == 0
    row = weights.view(Weight("matrix", 16), 16)
    assert row.view(torch.float32).tolist() == [4, 5, 6, 7]
    assert weights.address(Weight("matrix", 16), 16) == weights.address(Weight("matrix"), 48) + 16


def test_only_what_is_needed_is_loaded_each_tensor_at_a_place_that_tensorrt_takes(file) -> None:
    path, _ = file
    room: list[int] = []
    weights = loaded(path, ("matrix", "after"), room)
    assert room == [512]
    assert weights.address(Weight("after"), 4) - weights.address(Weight("matrix"), 48) == 256
    with pytest.raises(EngineError, match="has no tensor 'odd'"):
        weights.address(Weight("odd"), 3)


def test_nothing_is_allocated_if_there_is_no_room(file, monkeypatch) -> None:
    def refuse(size):
        raise TargetError(f"{size} bytes are too many")

    monkeypatch.setattr(torch, "empty", None)
    with pytest.raises(TargetError, match="768 bytes are too many"):
        load_weights(file[0], map(Weight, ("matrix", "odd", "after")), CPU, refuse)


@pytest.mark.parametrize(
    ("weight", "nbytes", "message"),
    [
        (Weight("bias"), 4, "rank0.safetensors has no tensor 'bias'"),
        (Weight("matrix"), 64, "'matrix' has 48 bytes, but the engine reads 64 from byte 0 on"),
        (Weight("matrix", 32), 32, "'matrix' has 48 bytes, but the engine reads 32 from byte 32 on"),
        (Weight("matrix", -16), 16, "'matrix' has 48 bytes"),
    ],
)
def test_what_is_absent_or_too_short_is_named(file, weight, nbytes, message) -> None:
    with pytest.raises(EngineError, match=message):
        map_weights(file[0]).address(weight, nbytes)


def test_files_of_the_safetensors_package_are_read(tmp_path) -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7)}
    save_file(tensors, tmp_path / "x.safetensors")
    weights = map_weights(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(weights.view(Weight(name), tensor.nbytes).view(tensor.dtype).view(tensor.shape), tensor)


@pytest.mark.parametrize("content", [b"weights", b"\0" * 8, b"\xff" * 16, b"\2" + b"\0" * 7 + b"[]", b"\1" + b"\0" * 9])
def test_other_files_are_refused(tmp_path, content) -> None:
    path = tmp_path / "rank0.safetensors"
    path.write_bytes(content)
    with pytest.raises(
        EngineError, match=r"rank0.safetensors is (no safetensors file: its header cannot be read|truncated)"
    ):
        read_spans(path)


def test_a_truncated_file_is_refused(file) -> None:
    path, _ = file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match="is truncated: it should have"):
        read_spans(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(EngineError, match=r"cannot read .*rank0.safetensors"):
        map_weights(tmp_path / "rank0.safetensors")


@pytest.fixture
def quantized(tmp_path):
    """A file with the parts of a weight in 4 bits, the weight, and its values."""
    codes = torch.randint(-8, 8, (6, 8), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    scale, zero = torch.rand(6, 2).half(), torch.tensor([[1, -2]] * 6, dtype=torch.int8)
    path = tmp_path / "rank0.safetensors"
    save_file({"codes": pack_int4(codes), "scale": scale, "zero": pack_int4(zero)}, path)
    parts = Part("codes", "INT4", (6, 8)), Part("scale", "HALF", (6, 2)), Part("zero", "INT4", (6, 2))
    wide = (codes.float().view(6, 2, 4) - zero[:, :, None]) * scale.float()[:, :, None]
    return path, Weight("codes", quantized=Quantized(*parts, dtype="HALF")), wide.view(6, 8).half()


def read_by_mapping(path, weight):
    return map_weights(path, [weight])


def read_by_loading(path, weight):
    return load_weights(path, [weight], CPU, lambda _: None)


@pytest.mark.parametrize("read", [read_by_mapping, read_by_loading])
def test_a_quantized_weight_is_dequantized(quantized, read) -> None:
    path, weight, wide = quantized
    assert torch.equal(read(path, weight).view(weight, 96).view(torch.float16).view(6, 8), wide)


def test_the_room_for_a_quantized_weight_is_that_of_its_floats(quantized) -> None:
    path, weight, _ = quantized
    room: list[int] = []
    load_weights(path, [weight, weight], CPU, room.append)
    assert room == [256]


@pytest.mark.parametrize("read", [read_by_mapping, read_by_loading])
def test_a_missing_part_is_named(quantized, read) -> None:
    path, weight, _ = quantized
    lost = replace(weight, quantized=replace(weight.quantized, scale=Part("lost", "HALF", (6, 2))))
    with pytest.raises(EngineError, match=r"rank0.safetensors has no tensor 'lost'"):
        read(path, lost)
