"""Linears as layers of a plug-in: what is built means what the graph says, in seconds and without weights in plans."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from compiler.backend_trt import BuildOptions, build_plans
from compiler.backend_trt.checks import check_plans, held_weights, products_of
from compiler.errors import TargetError
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.torch_types import to_torch
from compiler.passes import run_pipeline
from compiler.store import write_ranks
from compiler.store.constant_loader import constant_loader
from compiler.trt_emulator.engine import open_emulated
from compiler.trt_network.library import Library, load_library
from compiler.trt_network.plans import read_plans
from compiler.trt_network.plugin_layers import plugin_adder
from compiler.trt_network.products import PRODUCT
from compiler.trt_network.record import LayerRecord, NetworkRecord, read_record
from tests.backend_trt.networks import run
from tests.backend_trt.test_quant import TOLERANCE, weight, weights

LIBRARY = load_library("tensorrt-rtx")
PRODUCTS = BuildOptions(reuse=False, plugins=("products",))


def built(
    graph: Graph, folder: Path, inputs: dict[str, Tensor], options: BuildOptions = PRODUCTS
) -> tuple[Tensor, Tensor, NetworkRecord, int]:
    """The output `y` emulated and interpreted, the network, and the bytes of the plan."""
    write_ranks(graph, folder)
    stored = read_graph(folder / "rank0.ir")
    file = build_plans(LIBRARY, stored, constant_loader(stored), folder, "rank0.safetensors", options=options)
    (plan,) = read_plans(folder / file).plans
    record = read_record(folder / plan.network)
    found = run(open_emulated(folder, plan.network, "rank0.safetensors"), inputs | weights(record, folder))["y"].float()
    return found, Interpreter(stored)(inputs)["y"].float(), record, (folder / plan.engine).stat().st_size


def layers(record: NetworkRecord) -> list[LayerRecord]:
    """The layers of the plug-in."""
    return [layer for layer in record.layers if layer.kind == PRODUCT]


def network(dtype: DType, activation: str = "") -> Graph:
    """Two linears, the first with a bias and perhaps an activation."""
    b = Builder("network")
    x = b.input("x", dtype, 2, 3, 256)
    bias = b.random(key="b", dtype=dtype, shape=(192,), name="b")
    hidden = b.linear(x, b.random(key="w", dtype=dtype, shape=(192, 256), std=0.1, name="w"), bias, name="hidden")
    if activation:
        attrs = {"tanh": activation == "gelu_tanh"} if activation.startswith("gelu") else {}
        hidden = getattr(b, activation.removesuffix("_tanh"))(hidden, **attrs, name="active")
    b.output("y", b.linear(hidden, b.random(key="v", dtype=dtype, shape=(32, 192), std=0.1, name="v"), name="y"))
    return b.build()


def random_inputs(dtype: DType, *shape: int) -> dict[str, Tensor]:
    return {"x": torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(to_torch(dtype))}


@pytest.mark.parametrize(
    ("recipe", "dtype", "form"),
    [
        ("int4:group=64", DType.f16, "int4"), ("int4:group=32", DType.bf16, "int4"), ("int4", DType.f32, "int4"),
        ("int8", DType.f16, "int8"), ("int8:group=64", DType.f32, "int8"),
        ("fp8:act=off", DType.f16, "float8"), ("fp8:act=off:weights=channel", DType.bf16, "float8"),
    ],
)  # fmt: skip
def test_plans_mean_what_the_graph_says(recipe: str, dtype: DType, form: str, tmp_path: Path) -> None:
    graph = run_pipeline(network(dtype), f"quant={recipe}:only=hidden+y").graph
    found, expected, record, size = built(graph, tmp_path, random_inputs(dtype, 2, 3, 256))
    assert (found - expected).norm() / expected.norm() < TOLERANCE[dtype]
    assert [layer.params["form"] for layer in layers(record)] == [form, form]
    assert [layer.params["bias"] for layer in layers(record)] == [True, False]
    assert record.plugins == {PRODUCT} and size < 2**21
    assert not {"MATRIX_MULTIPLY", "CONSTANT", "DEQUANTIZE"} & {layer.kind for layer in record.layers}


@pytest.mark.parametrize("dtype", [DType.i8, DType.i4, DType.f8e4m3])
@pytest.mark.parametrize("scale", [(1, 1), (64, 4), (2, 2)])
@pytest.mark.parametrize("zero", [False, True])
def test_every_kind_of_scale(dtype: DType, scale: tuple[int, int], zero: bool, tmp_path: Path) -> None:
    if zero and dtype is DType.f8e4m3:
        return
    b = Builder("scales")
    b.output("y", b.linear(b.input("x", DType.f16, 5, 128), weight(b, dtype, scale, zero=zero), name="y"))
    found, expected, record, _ = built(b.build(), tmp_path, random_inputs(DType.f16, 5, 128))
    assert (found - expected).norm() / expected.norm() < 2e-3
    assert len(layers(record)) == 1


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_an_activation_that_alone_reads_a_product_is_computed_with_it(activation: str, tmp_path: Path) -> None:
    graph = run_pipeline(network(DType.f32, activation), "quant=int8:only=hidden+y").graph
    found, expected, record, _ = built(graph, tmp_path, random_inputs(DType.f32, 2, 3, 256))
    assert (found - expected).norm() / expected.norm() < TOLERANCE[DType.f32]
    assert [layer.params["activation"] for layer in layers(record)] == [activation, None]
    assert [layer.name for layer in layers(record)] == ["active", "y"]


def test_an_activation_stays_a_layer_where_the_product_itself_is_read(tmp_path: Path) -> None:
    b = Builder("twice")
    x = b.input("x", DType.f32, 2, 128)
    y = b.linear(x, weight(b, DType.i8, (64, 1), zero=False, to=DType.f32), name="inner")
    b.output("y", b.add(b.relu(y), y))
    found, expected, record, _ = built(b.build(), tmp_path, random_inputs(DType.f32, 2, 128))
    assert (found - expected).norm() / expected.norm() < TOLERANCE[DType.f32]
    assert layers(record)[0].params["activation"] is None


def test_what_the_kernels_do_not_read_is_left_to_tensorrt(tmp_path: Path) -> None:
    b = Builder("small")
    x = b.input("x", DType.f16, 5, 128)
    hidden = b.linear(x, weight(b, DType.i4, (64, 8), zero=False))  # groups of 16
    b.output("y", b.linear(hidden, b.random(key="v", dtype=DType.f16, shape=(32, 64), name="v"), name="y"))
    graph, options = b.build(), BuildOptions(reuse=False, plugins=("products", "dense"))
    found, expected, record, _ = built(graph, tmp_path, random_inputs(DType.f16, 5, 128), options)
    assert (found - expected).norm() / expected.norm() < 2e-3
    assert [layer.params["form"] for layer in layers(record)] == ["dense"]
    assert [op.result.type.shape for op in held_weights(read_graph(tmp_path / "rank0.ir"), PRODUCTS)] == [(64, 128)]


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [("int8:act=token", DType.f16), ("fp8:act=token", DType.f16), ("int8:act=token", DType.f32),
     ("fp8:act=token:weights=channel", DType.bf16)],
)  # fmt: skip
def test_activations_of_8_bits_are_multiplied_by_the_kernels_if_asked_for(
    recipe: str, dtype: DType, tmp_path: Path
) -> None:
    graph = run_pipeline(network(dtype), f"quant={recipe}:only=hidden+y").graph
    options = BuildOptions(reuse=False, plugins=("rounded",))
    found, expected, record, _ = built(graph, tmp_path, random_inputs(dtype, 2, 3, 256), options)
    assert (found - expected).norm() / expected.norm() < TOLERANCE[dtype]
    assert [layer.params["rounded"] for layer in layers(record)] == [
        {"f16": "HALF", "f32": "FLOAT", "bf16": "BF16"}[str(dtype)]
    ] * 2
    assert not {"MATRIX_MULTIPLY", "DEQUANTIZE"} & {layer.kind for layer in record.layers}


def test_one_scale_of_activations_is_a_constant_of_the_plan(tmp_path: Path) -> None:
    b = Builder("static")
    x = b.input("x", DType.f16, 2, 3, 128)
    scale = b.literal(dtype=DType.f32, shape=(1, 1, 1), values=(0.03,), name="scale")
    rounded = b.dequantize(b.quantize(x, scale, dtype=DType.i8), scale, dtype=DType.f16)
    b.output("y", b.relu(b.linear(rounded, weight(b, DType.i8, (64, 1), zero=False), name="inner"), name="y"))
    options = BuildOptions(reuse=False, plugins=("rounded",))
    found, expected, record, _ = built(b.build(), tmp_path, random_inputs(DType.f16, 2, 3, 128), options)
    assert (found - expected).norm() / expected.norm() < 2e-3
    (layer,) = layers(record)
    assert (layer.params["activation"], record.tensors[str(layer.inputs[1])].shape) == ("relu", (1,))


@pytest.mark.parametrize("recipe", ["", "quant=int8:act=token:only=hidden+y"])
def test_plug_ins_that_there_is_nothing_for_are_an_error(recipe: str) -> None:
    graph = run_pipeline(network(DType.f16), recipe).graph if recipe else network(DType.f16)
    with pytest.raises(TargetError, match="plugins=products was asked for, and no linear of network is") as caught:
        check_plans(graph, PRODUCTS)
    assert "choose from products, rounded, dense, attention" in str(caught.value.hint)


def dense(rows: int) -> Graph:
    """Two linears over float weights."""
    b = Builder("dense")
    hidden = b.linear(b.input("x", DType.f16, rows, 64), b.random(key="w", dtype=DType.f16, shape=(64, 64), name="w"))
    b.output("y", b.linear(hidden, b.random(key="v", dtype=DType.f16, shape=(32, 64), name="v"), name="y"))
    return b.build()


def test_dense_products_read_the_weights_of_other_plans(tmp_path: Path) -> None:
    options = BuildOptions(reuse=False, plugins=("dense",))
    found, expected, record, _ = built(dense(64), tmp_path, random_inputs(DType.f16, 64, 64), options)
    assert (found - expected).norm() / expected.norm() < TOLERANCE[DType.f16]
    assert len(layers(record)) == 2 and set(record.weights) == {"w", "v"}


def test_dense_products_are_for_few_rows() -> None:
    assert [len(products_of(dense(rows), ("dense",))) for rows in (64, 65)] == [2, 0]


def test_linears_that_share_a_weight_share_its_inputs(tmp_path: Path) -> None:
    b = Builder("shared")
    x = b.input("x", DType.f16, 4, 128)
    shared = weight(b, DType.i4, (64, 4), zero=True)
    b.output("y", b.add(b.linear(x, shared), b.linear(b.relu(x), shared), name="y"))
    found, expected, record, _ = built(b.build(), tmp_path, random_inputs(DType.f16, 4, 128))
    assert (found - expected).norm() / expected.norm() < 2e-3
    assert len(layers(record)) == 2 and len(record.weights) == 3


def test_plug_ins_are_not_for_old_gpus() -> None:
    with pytest.raises(TargetError, match=r"plug-ins are for compute capability 8\.0 and newer, not for 7\.5"):
        check_plans(network(DType.f16), BuildOptions(("7.5",), plugins=("products",)))


def test_a_kind_of_plug_in_that_there_is_not() -> None:
    with pytest.raises(TargetError, match="there are no plug-ins for 'product'; did you mean 'products'") as caught:
        BuildOptions(plugins=("product",))  # type: ignore[arg-type]
    assert caught.value.hint == "choose from: products, rounded, dense, attention"


class WithoutPlugins:
    """Stands for a package whose networks take no plug-ins in public."""

    INetworkDefinition = object
    IPluginV3 = object


class WithPlugins:
    """Stands for a package whose networks do."""

    IPluginV3 = object

    class INetworkDefinition:
        """The networks."""

        @staticmethod
        def add_plugin_v3(inputs: list[str], shape_inputs: list[str], plugin: str) -> tuple[list[str], list[str], str]:
            return inputs, shape_inputs, plugin


@pytest.mark.parametrize(
    ("trt", "version", "table", "why"),
    [
        (WithoutPlugins, "1.7.0.1", 1, "tensorrt_rtx 1.7.0.1: llmc knows how to add plug-ins to networks of 1.6.1"),
        (WithoutPlugins, "1.6.1.120", None, "does not give out the private table"),
        (SimpleNamespace(INetworkDefinition=object), "1.6.1.120", 1, "networks of 1.6.1"),
    ],
)
def test_a_version_that_cannot_add_plug_ins_is_named(trt: object, version: str, table: int | None, why: str) -> None:
    library = Library("tensorrt-rtx", trt, version)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="plug-ins cannot be built with") as caught:
        plugin_adder(library, lambda: table)
    assert why in caught.value.message and "leave out the target's option plugins" in str(caught.value.hint)


def test_the_public_interface_is_used_where_there_is_one() -> None:
    add = plugin_adder(Library("tensorrt", WithPlugins, "10.15.1"), lambda: pytest.fail("no table is needed"))  # type: ignore[arg-type]
    assert add(WithPlugins.INetworkDefinition, ("x", "w"), "plug-in") == (["x", "w"], [], "plug-in")
