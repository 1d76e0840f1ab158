"""The kernels behind plug-ins: on weights as the runtime arranges them, given by addresses alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from compiler.errors import EngineError
from compiler.ir.dtypes import DType
from compiler.ir.int4 import unpack_int4
from compiler.trt_emulator.plugin_attention import attention
from compiler.trt_emulator.table import LayerCall
from compiler.trt_network.arrangement import arrange
from compiler.trt_network.attention import ATTENTION, AttentionSpec
from compiler.trt_network.library import load_library
from compiler.trt_network.plugin_class import PluginKernels, plugin_of
from compiler.trt_network.products import PRODUCT, ProductSpec
from compiler.trt_network.record import Arranged, LayerRecord, NetworkRecord, TensorRecord
from runtime.executors.cuda.plugin_kernels import LAUNCHERS
from runtime.executors.tensorrt.plugins import PluginTensor, enqueue_of
from runtime.executors.torch.packed import PackedWeight
from tests.runtime.executors.cuda.products import ACTIVATIONS, Case, assert_right, part

ROWS, COLUMNS = 57, 256
NAMES = {
    torch.float16: "HALF",
    torch.float32: "FLOAT",
    torch.int8: "INT8",
    torch.int32: "INT32",
    torch.float8_e4m3fn: "FP8",
}
SPECS = [
    ProductSpec("dense", ROWS, COLUMNS, bias=True, activation="gelu_tanh"),
    ProductSpec("int8", ROWS, COLUMNS, COLUMNS, bias=True),
    ProductSpec("int8", ROWS, COLUMNS, 64, zero=True),
    ProductSpec("int4", ROWS, COLUMNS, 128, 128, zero=True, bias=True, activation="relu"),
    ProductSpec("int4", ROWS, COLUMNS, 32, 32),
    ProductSpec("float8", ROWS, COLUMNS, 64, factor=256.0),
]


def named(spec: ProductSpec) -> str:
    """The name of a spec in the name of a test."""
    return f"{spec.form}-{spec.group}{'-zero' * spec.zero}"


def inputs_of(spec: ProductSpec, rows: int) -> tuple[list[Tensor], Tensor]:
    """The inputs of a layer in float16, and its weight in float64."""
    g = torch.Generator().manual_seed(0)
    packed, weight = part(Case(spec.form, spec.group, spec.zero), spec.rows, spec.columns, g)
    x = torch.randn(1, rows, spec.columns, generator=g).half()
    bias = [torch.randn(spec.rows, generator=g).half()] if spec.bias else []
    if not isinstance(packed, PackedWeight):
        return [x, packed, *bias], weight
    codes = packed.q.view(torch.int8)
    if packed.dtype is DType.i4:
        codes = arranged(spec, "codes", unpack_int4(packed.q, spec.rows * spec.columns).view(spec.rows, spec.columns))
    parts = [codes, arranged(spec, "scale", packed.scale)]
    parts += [] if packed.zero is None else [arranged(spec, "zero", packed.zero)]
    return [x, *parts, *bias], weight


def arranged(spec: ProductSpec, which: str, stored: Tensor) -> Tensor:
    record = TensorRecord(which, "FLOAT", tuple(stored.shape))
    chunk, factor = (spec.chunk if which == "codes" else 0), (spec.factor if which == "scale" else 1.0)
    made = Arranged(which, record, spec.rows, spec.columns, spec.group, chunk, factor)
    result = arrange(stored, made)
    assert result.nbytes == made.nbytes
    return result


def at(tensor: Tensor) -> PluginTensor:
    assert tensor.is_contiguous()
    return PluginTensor(tensor.data_ptr(), NAMES[tensor.dtype], tuple(tensor.shape))


def check(spec: ProductSpec, given: list[Tensor], weight: Tensor, y: Tensor) -> None:
    x = given[0][0].double()
    expected = x @ weight.T + (given[-1].double() if spec.bias else 0)
    if spec.activation:
        expected = ACTIVATIONS[spec.activation](expected)
    sides = 1 if len(x) > 64 and spec.form != "dense" else 0
    assert_right(y[0], expected, x.abs() @ weight.abs().T, torch.float16, sides=sides)


@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_layers_are_computed_from_addresses(spec: ProductSpec, rows: int, device: torch.device) -> None:
    given, weight = inputs_of(spec, rows)
    given = [tensor.to(device) for tensor in given]
    y = torch.full((1, rows, spec.rows), float("nan"), dtype=torch.float16, device=device)
    launch = LAUNCHERS[PRODUCT](spec, device)
    stream = torch.cuda.current_stream().cuda_stream if device.type == "cuda" else 0
    for _ in range(2):  # the second time from what is kept
        launch([at(tensor) for tensor in given], [at(y)], stream)
    check(spec, [tensor.cpu() for tensor in given], weight, y.cpu())


@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("each", [True, False], ids=["a scale for each", "one scale"])
@pytest.mark.parametrize("form", ["int8", "float8"])
def test_activations_may_be_rounded(form: str, each: bool, rows: int, device: torch.device) -> None:
    factor = 256.0 if form == "float8" else 1.0
    spec = ProductSpec(form, ROWS, COLUMNS, COLUMNS, factor=factor, bias=True, rounded="HALF")
    (x, codes, scale, bias), weight = inputs_of(spec, rows)
    dtype = torch.int8 if form == "int8" else torch.float8_e4m3fn
    x = (x * 30).to(dtype)
    x_scale = torch.rand((1, rows, 1) if each else (1,), generator=torch.Generator().manual_seed(2)) / 50
    given = [tensor.to(device) for tensor in (x, x_scale, codes.view(dtype), scale, bias)]
    y = torch.empty(1, rows, ROWS, dtype=torch.float16, device=device)
    stream = torch.cuda.current_stream().cuda_stream if device.type == "cuda" else 0
    LAUNCHERS[PRODUCT](spec, device)([at(tensor) for tensor in given], [at(y)], stream)
    wide = (x.double() * x_scale.double())[0]
    sides = 2 if rows > 64 else 0
    expected = wide @ weight.T + bias.double()
    assert_right(y[0].cpu(), expected, wide.abs() @ weight.abs().T, torch.float16, sides=sides)


JOINED = [
    ProductSpec("int8", ROWS, COLUMNS, COLUMNS, bias=True, sections=((24, None), (33, "gelu_tanh")), starts=(32,)),
    ProductSpec("int8", ROWS, COLUMNS, 64, zero=True, sections=((24, "relu"), (33, "silu"))),
    ProductSpec("int8", ROWS, COLUMNS, 64, bias=True, widths=(64, 192), starts=(0, 16), whole=True),
    ProductSpec("int4", ROWS, COLUMNS, 32, 64, widths=(192, 64), starts=(8, 0)),
]


@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("spec", JOINED, ids=["sections", "activations", "two inputs", "two inputs of int4"])
def test_layers_stand_for_several_linears(spec: ProductSpec, rows: int, device: torch.device) -> None:
    single = replace(spec, sections=(), widths=(), starts=(), whole=False)
    (x, *others), weight = inputs_of(single, rows)
    wide, first = [], 0
    for place, columns in enumerate(spec.columns_read):
        held = torch.full((1, rows, columns.stop + 8 * place), float("nan"), dtype=torch.float16)
        width = columns.stop - columns.start
        held[..., columns] = x[..., first : first + width]
        wide.append(held)
        first += width
    given = [tensor.to(device) for tensor in (*wide, *others)]
    y = torch.empty(1, rows, ROWS, dtype=torch.float16, device=device)
    stream = torch.cuda.current_stream().cuda_stream if device.type == "cuda" else 0
    LAUNCHERS[PRODUCT](spec, device)([at(tensor) for tensor in given], [at(y)], stream)
    expected = x[0].double() @ weight.T + (others[-1].double() if spec.bias else 0)
    scale, start = x[0].double().abs() @ weight.abs().T, 0
    for size, activation in spec.parts:
        part = slice(start, start + size)
        wanted = ACTIVATIONS[activation](expected[:, part]) if activation else expected[:, part]
        assert_right(y[0, :, part].cpu(), wanted, scale[:, part], torch.float16, sides=int(rows > 64))
        start += size


def test_another_activation_is_read_after_one(device: torch.device) -> None:
    spec = SPECS[1]
    launch = LAUNCHERS[PRODUCT](spec, device)
    for rows in (2, 3, 2):
        given, weight = inputs_of(spec, rows)
        given = [tensor.to(device) for tensor in given]
        y = torch.empty(1, rows, spec.rows, dtype=torch.float16, device=device)
        launch([at(tensor) for tensor in given], [at(y)], 0)
        check(spec, [tensor.cpu() for tensor in given], weight, y.cpu())


def test_scales_in_other_units_are_refused(device: torch.device) -> None:
    given, _ = inputs_of(SPECS[-1], 1)
    y = torch.empty(1, 1, ROWS, dtype=torch.float16)
    with pytest.raises(EngineError, match="scales of float8 are 2 times what they are"):
        LAUNCHERS[PRODUCT](replace(SPECS[-1], factor=2.0), torch.device("cpu"))([at(t) for t in given], [at(y)], 0)


def described(tensor: Tensor) -> SimpleNamespace:
    """What TensorRT says of a tensor to a plug-in."""
    return SimpleNamespace(type=SimpleNamespace(name=NAMES[tensor.dtype]), dims=tuple(tensor.shape))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tensors are the CPU's")
def test_the_plug_in_that_tensorrt_calls_launches_them() -> None:
    trt = load_library("tensorrt-rtx").trt
    spec = SPECS[3]
    kernels = PluginKernels(lambda spec: enqueue_of(LAUNCHERS[PRODUCT](spec, torch.device("cpu"))))
    given, weight = inputs_of(spec, 3)
    y = torch.empty(1, 3, ROWS, dtype=torch.float16)
    plugin = plugin_of(trt, spec, kernels).attach_to_context(None)
    arguments = [described(t) for t in given], [described(y)], [t.data_ptr() for t in given], [y.data_ptr()], 0, 0
    assert plugin.enqueue(*arguments) == 0 and not kernels.failures
    check(spec, given, weight, y)
    assert plugin_of(trt, spec, kernels).enqueue(arguments[0][:2], *arguments[1:]) == 1
    (failure,) = kernels.failures
    assert failure.startswith("llmc::product {") and "ValueError" in failure


ATTENTIONS = [
    AttentionSpec(4, 2, 16, 0.25, ((0, 8), (0, 72), (0, 104)), turned=8, interleaved=True),
    AttentionSpec(2, 2, 32, 0.2, ((0, 0), (1, 0), (1, 64)), alibi=True, window=9),
    AttentionSpec(2, 2, 16, 0.25, ((0, 0), (1, 0), (2, 0)), turned=16, cache="INT8"),
]


def attention_inputs(spec: AttentionSpec, capacity: int) -> list[Tensor]:
    """What a layer of attention reads in float16, of sequences of 5, no and 20 tokens and one of padding."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    shape = (4, spec.kv_heads, capacity, spec.width)
    caches = [normal(*shape).half() if spec.cache is None else (normal(*shape) * 30).to(torch.int8) for _ in "kv"]
    widths = {number: 0 for number, _ in spec.reads}
    for (number, start), heads in zip(spec.reads, (spec.heads, spec.kv_heads, spec.kv_heads), strict=True):
        widths[number] = max(widths[number], start + heads * spec.width + 8)
    given = [normal(4, 1, width).half() for width in widths.values()]
    given += [*caches, torch.tensor([5, 0, 20, capacity], dtype=torch.int32)]
    angles = normal(4, 1, spec.turned // 2)
    given += [angles.cos(), angles.sin()] if spec.turned else []
    given += [(2.0 ** -torch.arange(1, spec.heads + 1)).view(-1, 1, 1)] if spec.alibi else []
    return given + ([torch.rand(spec.kv_heads, generator=g) / 20 + 0.02 for _ in "kv"] if spec.cache else [])


@pytest.mark.parametrize("spec", ATTENTIONS, ids=["rotary", "alibi", "int8"])
def test_layers_of_attention_are_computed_from_addresses(spec: AttentionSpec, device: torch.device) -> None:
    """The emulator's result is the interpreter's meaning; 8-bit keys may be rounded to the next integer."""
    capacity = 128
    given = attention_inputs(spec, capacity)
    there = [tensor.clone().to(device) for tensor in given]
    context = torch.full((4, 1, spec.heads * spec.width), float("nan"), dtype=torch.float16, device=device)
    first = spec.results[1].like
    outputs = [at(context), at(there[first]), at(there[first + 1])]
    stream = torch.cuda.current_stream().cuda_stream if device.type == "cuda" else 0
    launch = LAUNCHERS[ATTENTION](spec, device)
    launch([at(tensor) for tensor in there], outputs, stream)
    layer = LayerRecord("attention", ATTENTION, spec.inputs, ("y", "k", "v"), spec.params)
    expected, *caches = attention(LayerCall(layer, given, NetworkRecord("n", "p", {}, (layer,), (), ())))
    assert not context[3].any() and not expected[3].any()
    torch.testing.assert_close(context.cpu().float(), expected.float(), rtol=4e-3, atol=4e-3)
    for found, cache in zip(there[first : first + 2], caches, strict=True):
        step = 1 if spec.cache else 2e-3
        torch.testing.assert_close(found.cpu().float(), cache.float(), rtol=0, atol=step)
        assert torch.equal(found.cpu()[:, :, 21:], cache[:, :, 21:])


def test_caches_that_are_given_apart_from_their_place_are_copied_there(device: torch.device) -> None:
    spec = ATTENTIONS[0]
    given = [tensor.to(device) for tensor in attention_inputs(spec, 32)]
    before = [tensor.clone() for tensor in given]
    caches = [torch.full_like(given[at], float("nan")) for at in (1, 2)]
    context = torch.empty(4, 1, 64, dtype=torch.float16, device=device)
    stream = torch.cuda.current_stream().cuda_stream if device.type == "cuda" else 0
    launch = LAUNCHERS[ATTENTION](spec, device)
    launch([at(tensor) for tensor in given], [at(tensor) for tensor in (context, *caches)], stream)
    assert all(map(torch.equal, given, before))
    expected = torch.empty_like(context)
    launch([at(tensor) for tensor in given], [at(tensor) for tensor in (expected, *given[1:3])], stream)
    assert torch.equal(context, expected) and all(map(torch.equal, caches, given[1:3]))
