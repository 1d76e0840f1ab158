"""The weights of a rank in memory."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from compiler.errors import EngineError, TargetError
from compiler.ir.int4 import pack_int4
from compiler.trt_network.record import Quantized, TensorRecord, Weight
from runtime.executors.tensorrt.weight_memory import load_weights, map_weights

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
def test_the_bytes_of_a_weight_are_those_of_the_file(file, read) -> None:
    path, tensors = file
    weights = read(path)
    for name, tensor in tensors.items():
        view = weights.view(name, tensor.nbytes)
        assert torch.equal(view.view(tensor.dtype).view(tensor.shape), tensor)
        assert view.data_ptr() % tensor.itemsize == 0
    row = weights.view("matrix", 16, 16)
    assert row.view(torch.float32).tolist() == [4, 5, 6, 7]
    assert row.data_ptr() == weights.view("matrix", 48).data_ptr() + 16


def test_only_what_is_needed_is_loaded_each_tensor_at_a_place_that_tensorrt_takes(file) -> None:
    path, _ = file
    room: list[int] = []
    weights = loaded(path, ("matrix", "after"), room)
    assert room == [512]
    assert weights.view("after", 4).data_ptr() - weights.view("matrix", 48).data_ptr() == 256
    with pytest.raises(EngineError, match="has no tensor 'odd'"):
        weights.view("odd", 3)


def test_nothing_is_allocated_if_there_is_no_room(file, monkeypatch) -> None:
    def refuse(size):
        raise TargetError(f"{size} bytes are too many")

    monkeypatch.setattr(torch, "empty", None)
    with pytest.raises(TargetError, match="768 bytes are too many"):
        load_weights(file[0], map(Weight, ("matrix", "odd", "after")), CPU, refuse)


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
    parts = {
        word: TensorRecord(word, dtype, shape)
        for word, dtype, shape in (("codes", "INT4", (6, 8)), ("scale", "HALF", (6, 2)), ("zero", "INT4", (6, 2)))
    }
    wide = (codes.float().view(6, 2, 4) - zero[:, :, None]) * scale.float()[:, :, None]
    return path, Weight("codes", quantized=Quantized(**parts, dtype="HALF")), wide.view(6, 8).half()


def read_by_mapping(path, weight):
    return map_weights(path, [weight])


def read_by_loading(path, weight):
    return load_weights(path, [weight], CPU, lambda _: None)


@pytest.mark.parametrize("read", [read_by_mapping, read_by_loading])
def test_a_quantized_weight_is_dequantized(quantized, read) -> None:
    path, weight, wide = quantized
    assert torch.equal(read(path, weight).view(weight.source, 96).view(torch.float16).view(6, 8), wide)


def test_the_room_for_a_quantized_weight_is_that_of_its_floats(quantized) -> None:
    path, weight, _ = quantized
    room: list[int] = []
    load_weights(path, [weight, weight], CPU, room.append)
    assert room == [256]


@pytest.mark.parametrize("read", [read_by_mapping, read_by_loading])
def test_a_missing_part_is_named(quantized, read) -> None:
    path, weight, _ = quantized
    lost = replace(weight, quantized=replace(weight.quantized, scale=TensorRecord("lost", "HALF", (6, 2))))
    with pytest.raises(EngineError, match=r"rank0.safetensors has no tensor 'lost'"):
        read(path, lost)
