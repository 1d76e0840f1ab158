"""Reading networks back: the layers that only plug-ins emit (for those of llmc's own rules see the other tests)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from compiler.backend_trt import readback
from compiler.errors import TargetError
from compiler.trt_emulator import EmulatedEngine
from compiler.trt_emulator.table import EMULATIONS
from compiler.trt_network.attention import ATTENTION as PLUGIN_ATTENTION
from compiler.trt_network.library import load_library
from compiler.trt_network.messages import NO_GPU, Messages
from compiler.trt_network.plugin_class import PluginKernels, plugin_of
from compiler.trt_network.plugin_layers import plugin_adder
from compiler.trt_network.products import PRODUCT, ProductSpec
from tests.trt_emulator.networks import bind

TRT = load_library("tensorrt-rtx").trt
X = torch.arange(6.0).view(2, 3)
Y = torch.arange(12.0).view(3, 4) / 7
COLUMNS = torch.tensor([[2, 0, 1], [0, 1, 2]], dtype=torch.int32)
ANGLES = torch.arange(4.0).view(1, 2, 2)
Given = dict[str, Tensor]


def einsum(network: Any, inputs: list[Any]) -> Any:
    return network.add_einsum(inputs, "ij,jk->ki")


def scatter(network: Any, inputs: list[Any]) -> Any:
    return network.add_scatter(inputs[0], inputs[1], inputs[0], TRT.ScatterMode.ELEMENT)


def cumulative(network: Any, inputs: list[Any]) -> Any:
    axis = constant(network, torch.tensor(1, dtype=torch.int32))
    return network.add_cumulative(inputs[0], axis, TRT.CumulativeOperation.SUM, False, True)


def squeeze(network: Any, inputs: list[Any]) -> Any:
    return network.add_squeeze(inputs[0], constant(network, torch.tensor([1], dtype=torch.int64)))


def rotary(network: Any, inputs: list[Any]) -> Any:
    return network.add_rotary_embedding(inputs[0], inputs[1], inputs[2], False, 4)


AXIS = {"int32": torch.tensor(1, dtype=torch.int32), "int64": torch.tensor([1], dtype=torch.int64)}


def constant(network: Any, value: Tensor) -> Any:
    """A constant layer over numbers that live as long as the tests."""
    kept = AXIS[str(value.dtype).removeprefix("torch.")]
    weights = TRT.Weights(getattr(TRT, str(kept.dtype).removeprefix("torch.")), kept.data_ptr(), kept.numel())
    return network.add_constant(tuple(kept.shape), weights).get_output(0)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    (a, b), c, s = x.chunk(2, -1), cos[:, None], sin[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


HEADS = torch.arange(16.0).view(1, 2, 2, 4)
CASES: dict[str, tuple[Callable[..., Any], Given, Tensor]] = {
    "EINSUM": (einsum, {"x": X, "y": Y}, (X @ Y).T),
    "SCATTER": (scatter, {"x": X, "i": COLUMNS % 2}, X.scatter(0, (COLUMNS % 2).long(), X)),
    "CUMULATIVE": (cumulative, {"x": X}, X.flip(1).cumsum(1).flip(1)),
    "SQUEEZE": (squeeze, {"x": X.view(2, 1, 3)}, X),
    "ROTARY_EMBEDDING": (
        rotary,
        {"x": HEADS, "cos": ANGLES.cos(), "sin": ANGLES.sin()},
        turned(HEADS, ANGLES.cos(), ANGLES.sin()),
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_layers_that_only_plug_ins_emit_are_read_back_and_emulated(kind: str) -> None:
    emit, given, expected = CASES[kind]
    messages = Messages(TRT, ignored=NO_GPU)
    builder = TRT.Builder(messages.logger)
    network = builder.create_network(1 << int(TRT.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    types = {torch.float32: TRT.float32, torch.int32: TRT.int32}
    inputs = [network.add_input(name, types[tensor.dtype], tuple(tensor.shape)) for name, tensor in given.items()]
    output = emit(network, inputs).get_output(0)
    output.name = "out"
    network.mark_output(output)
    record = readback.read_back(TRT, network, "any")
    assert kind in {layer.kind for layer in record.layers} and not messages.errors
    values = {
        layer.name: AXIS[record.tensors[layer.outputs[0]].dtype.lower()] for layer in record.layers if not layer.inputs
    }
    context = EmulatedEngine(record, values.__getitem__).create_execution_context()
    bound = bind(context, given)
    assert context.execute_async_v3(0)
    torch.testing.assert_close(bound["out"], expected)


def test_every_layer_that_is_emulated_can_be_read_back() -> None:
    own = {kind for kind in EMULATIONS if EMULATIONS.is_own(kind)}
    assert {*readback._CLASSES, "ATTENTION", PRODUCT, PLUGIN_ATTENTION} - {"CONSTANT"} == own


def test_a_plug_in_of_somebody_else_is_not_taken_for_llmcs() -> None:
    library = load_library("tensorrt-rtx")
    builder = TRT.Builder(Messages(TRT, ignored=NO_GPU).logger)
    network = builder.create_network(1 << int(TRT.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    inputs = [network.add_input(name, TRT.float32, shape) for name, shape in (("x", (2, 8)), ("w", (4, 8)))]
    kernels = PluginKernels()
    plugin = plugin_of(TRT, ProductSpec("dense", 4, 8), kernels)
    layer = plugin_adder(library)(network, inputs, plugin)
    network.mark_output(layer.get_output(0))
    for one in kernels.kept:  # TensorRT has made copies
        one.spec = "something else"
    with pytest.raises(TargetError, match="of a plug-in that llmc cannot read back"):
        readback.read_back(TRT, network, "any")
