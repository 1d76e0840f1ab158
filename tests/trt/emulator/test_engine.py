"""Engines of records, and the files they are read from."""

import ast
import dataclasses
from pathlib import Path

import pytest
import torch

import compiler.trt.emulator
from compiler.errors import EngineError, TargetError
from compiler.trt.emulator import EmulatedEngine, open_emulated
from compiler.trt.record import Place
from tests.trt.emulator.networks import Network, bind


def linear(dtype=torch.float32):
    """y = x @ w, with two profiles."""
    network = Network()
    network.input("x", "FLOAT", (-1, 2))
    network.constant("w", torch.tensor([[1.0, 2.0], [3.0, 4.0]]).to(dtype))
    network.layer("MATRIX_MULTIPLY", ["x", "w"], "y", "FLOAT", (-1, 2), op0="NONE", op1="NONE")
    network.profile(x=([1, 2], [1, 2], [1, 2]))
    network.profile(x=([2, 2], [4, 2], [8, 2]))
    return network


def test_inputs_outputs_and_profiles():
    engine = linear().engine("y")
    assert (engine.name, engine.num_layers, engine.num_io_tensors) == ("network", 2, 2)
    assert [engine.get_tensor_name(i) for i in range(2)] == ["x", "y"]
    assert [engine.get_tensor_mode(n).name for n in ("x", "y", "w", "z")] == ["INPUT", "OUTPUT", "NONE", "NONE"]
    assert engine.get_tensor_dtype("x").name == "FLOAT" and engine.get_tensor_shape("y") == (-1, 2)
    assert engine.num_optimization_profiles == 2
    assert engine.get_tensor_profile_shape("x", 1) == [(2, 2), (4, 2), (8, 2)]
    assert engine.device_memory_size_v2 == engine.get_device_memory_size_for_profile_v2(1) == 0


def test_a_network_without_profiles_has_one_of_its_own():
    network = Network()
    network.input("x", "HALF", (3,))
    network.layer("IDENTITY", ["x"], "y", "HALF", (3,))
    engine = network.engine("y")
    assert engine.num_optimization_profiles == 1
    assert engine.get_tensor_profile_shape("x", 0) == [(3,)] * 3


def test_what_is_not_there():
    engine = linear().engine("y")
    with pytest.raises(TargetError, match="no input or output 'w'"):
        engine.get_tensor_shape("w")
    with pytest.raises(TargetError, match="no profile 2"):
        engine.get_tensor_profile_shape("x", 2)


def test_constants_must_be_what_was_recorded():
    network = linear()
    with pytest.raises(TargetError, match=r"constant 'constant w' is torch.float32\[2\], but"):
        EmulatedEngine(network.record("y"), lambda name: torch.ones(2))
    with pytest.raises(TargetError, match=r"is torch\.float16"):
        EmulatedEngine(network.record("y"), lambda name: torch.ones(2, 2, dtype=torch.float16))


def test_constants_are_read_once():
    network, reads = linear(), []

    def constant(name):
        reads.append(name)
        return network.constants[name]

    engine = EmulatedEngine(network.record("y"), constant)
    for _ in range(3):
        context = engine.create_execution_context()
        bind(context, {"x": torch.ones(1, 2)})
        assert context.execute_async_v3(0)
    assert reads == ["constant w"]


def write(folder, *, offset=64, nbytes=16, file="weights.bin"):
    network = linear()
    (folder / "weights.bin").write_bytes(bytes(offset) + network.constants["constant w"].numpy().tobytes())
    record = dataclasses.replace(network.record("y"), constants={"constant w": Place(file, offset, nbytes)})
    record.write(folder / "network.json")


@pytest.mark.parametrize("offset", [64, 63])
def test_an_engine_from_files(tmp_path, offset):
    write(tmp_path, offset=offset)
    context = open_emulated(tmp_path, "network.json").create_execution_context()
    bound = bind(context, {"x": torch.tensor([[1.0, 10.0]])})
    assert context.execute_async_v3(0) and bound["y"].tolist() == [[31, 42]]


def test_constants_are_mapped_not_copied_and_files_stay_as_they_are(tmp_path):
    write(tmp_path)
    (tmp_path / "weights.bin").chmod(0o444)
    tensor = open_emulated(tmp_path, "network.json").constants["w"]
    before = (tmp_path / "weights.bin").read_bytes()
    assert tensor.untyped_storage().nbytes() == len(before) and tensor.storage_offset() == 16
    tensor.zero_()
    assert (tmp_path / "weights.bin").read_bytes() == before


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"file": "gone.bin"}, "cannot read .*gone.bin"),
        ({"nbytes": 12}, "has 12 bytes for FLOAT"),
    ],
)
def test_damaged_places(tmp_path, place, message):
    write(tmp_path, **place)
    with pytest.raises(EngineError, match=message):
        open_emulated(tmp_path, "network.json")


def test_a_file_that_is_too_short(tmp_path):
    write(tmp_path)
    path = tmp_path / "weights.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match="ends inside constant 'constant w': 16 bytes at 64, only 79 there"):
        open_emulated(tmp_path, "network.json")


def test_a_constant_without_a_place(tmp_path):
    linear().record("y").write(tmp_path / "network.json")
    with pytest.raises(EngineError, match="does not say where constant 'constant w' lies"):
        open_emulated(tmp_path, "network.json")


def test_int4_constants(tmp_path):
    network = Network()
    network.input("scale", "HALF", ())
    network.constant("q", torch.tensor([[1, -8, 7]], dtype=torch.int8), "INT4")
    network.layer("DEQUANTIZE", ["q", "scale"], "y", "HALF", (1, 3), axis=0, to_type="HALF")
    (tmp_path / "w").write_bytes(bytes([0x81, 0x07]))
    dataclasses.replace(network.record("y"), constants={"constant q": Place("w", 0, 2)}).write(tmp_path / "n")
    context = open_emulated(tmp_path, "n").create_execution_context()
    bound = bind(context, {"scale": torch.tensor(0.5, dtype=torch.float16)})
    assert context.execute_async_v3(0) and bound["y"].tolist() == [[0.5, -4, 3.5]]


def test_nothing_imports_tensorrt():
    for path in Path(compiler.trt.emulator.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("tensorrt") for name in names), path
