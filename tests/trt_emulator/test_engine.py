"""Engines of records, and the files they are read from."""

import ast
import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import compiler.trt_emulator
from compiler.errors import EngineError, TargetError
from compiler.trt_emulator import EmulatedEngine, open_emulated
from compiler.trt_network.record import Weight
from tests.trt_emulator.networks import Network, bind


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


def save(folder, network, constants, tensors):
    record = dataclasses.replace(network.record("y"), constants=constants)
    record.write(folder / "network.json")
    save_file(tensors, folder / "weights.safetensors")


def opened(folder):
    return open_emulated(folder, "network.json", "weights.safetensors")


def run(engine, **tensors):
    context = engine.create_execution_context()
    bound = bind(context, tensors)
    assert context.execute_async_v3(0)
    return bound["y"].tolist()


W = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_constants_lie_in_the_weights_file_at_an_offset(tmp_path, rows):
    stored = torch.cat([torch.full((rows, 2), 9.0), W, torch.full((1, 2), 9.0)])
    save(tmp_path, linear(), {"constant w": Weight("many rows", 8 * rows)}, {"a": torch.ones(3), "many rows": stored})
    assert run(opened(tmp_path), x=torch.tensor([[1.0, 10.0]])) == [[31, 42]]


def test_constants_lie_in_the_record_itself(tmp_path):
    save(tmp_path, linear(), {"constant w": W.numpy().tobytes()}, {})
    (tmp_path / "weights.safetensors").unlink()
    assert run(opened(tmp_path), x=torch.tensor([[1.0, 10.0]])) == [[31, 42]]


def test_weights_are_inputs(tmp_path):
    network = Network()
    network.input("x", "FLOAT", (-1, 2))
    network.weight("w", "FLOAT", (2, 2))
    network.layer("MATRIX_MULTIPLY", ["x", "w"], "y", "FLOAT", (-1, 2), op0="NONE", op1="NONE")
    network.profile(x=([1, 2], [1, 2], [4, 2]))
    save(tmp_path, network, {}, {})
    engine = opened(tmp_path)
    assert engine.record.weights == {"w": Weight("w")}
    assert engine.get_tensor_mode("w").name == "INPUT" and engine.get_tensor_profile_shape("w", 0) == [(2, 2)] * 3
    assert engine.create_execution_context().infer_shapes() == ["x"]
    assert run(engine, x=torch.tensor([[1.0, 10.0]]), w=W) == [[31, 42]]


def test_constants_are_mapped_not_copied_and_files_stay_as_they_are(tmp_path):
    save(tmp_path, linear(), {"constant w": Weight("w")}, {"w": W})
    path = tmp_path / "weights.safetensors"
    path.chmod(0o444)
    tensor, before = opened(tmp_path).constants["w"], path.read_bytes()
    assert tensor.untyped_storage().nbytes() == len(before) and tensor.storage_offset() == (len(before) - 16) / 4
    tensor.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({}, "lacks the values of constant 'constant w'"),
        ({"constant w": bytes(12)}, r"constant 'constant w' has 12 bytes for FLOAT\[2, 2\]"),
        ({"constant w": Weight("gone")}, "weights.safetensors has no tensor 'gone'"),
        (
            {"constant w": Weight("w", 4)},
            "the tensor 'w' has 16 bytes, but the engine reads 16 from byte 4 on",
        ),
        (
            {"constant w": Weight("w", -4)},
            "the tensor 'w' has 16 bytes, but the engine reads 16 from byte -4 on",
        ),
    ],
)
def test_constants_that_are_missing_or_too_short(tmp_path, constants, message):
    save(tmp_path, linear(), constants, {"w": W})
    with pytest.raises(EngineError, match=message) as error:
        opened(tmp_path)
    assert error.value.hint


def test_int4_constants(tmp_path):
    network = Network()
    network.input("scale", "HALF", ())
    network.constant("q", torch.tensor([[1, -8, 7]], dtype=torch.int8), "INT4")
    network.layer("DEQUANTIZE", ["q", "scale"], "y", "HALF", (1, 3), axis=0, to_type="HALF")
    for constant in (bytes([0x81, 0x07]), Weight("q")):
        save(tmp_path, network, {"constant q": constant}, {"q": torch.tensor([0x81, 0x07], dtype=torch.uint8)})
        assert run(opened(tmp_path), scale=torch.tensor(0.5, dtype=torch.float16)) == [[0.5, -4, 3.5]]


def test_nothing_imports_tensorrt():
    for path in Path(compiler.trt_emulator.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("tensorrt") for name in names), path
