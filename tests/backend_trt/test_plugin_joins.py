"""Linears that one layer of the plug-in of products stands for: of one input, and of two whose results are added."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from compiler.backend_trt import BuildOptions, checks
from compiler.backend_trt.checks import products_of
from compiler.backend_trt.rules.plugin_joins import product_layers
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.passes import run_pipeline
from compiler.store import write_ranks
from compiler.trt_network.record import NetworkRecord, read_record
from tests.backend_trt.test_plugins import built, layers, random_inputs
from tests.backend_trt.test_quant import TOLERANCE, weight

WIDTH, INNER = 64, 256
JOINED = BuildOptions(reuse=False, plugins=("products", "attention"))


@pytest.fixture(autouse=True)
def _networks_may_lack_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks here are too small for what the options ask for."""
    monkeypatch.setattr(checks, "_require_use", lambda *_: None)


def linear(b: Builder, name: str, x: Value, rows: int, *, bias: bool = False) -> Value:
    """A linear with a weight of its own, and perhaps a bias."""
    shape, dtype = (rows, x.type.sizes({})[-1]), x.type.dtype
    matrix = b.random(key=name, dtype=dtype, shape=shape, std=0.1, name=f"{name}.weight")
    vectors = [b.random(key=f"{name}.b", dtype=dtype, shape=(rows,), std=0.1, name=f"{name}.bias")] if bias else []
    return b.linear(x, matrix, *vectors, name=name)


def parallel_layer(dtype: DType) -> Graph:
    """What a layer with one norm for attention and MLP looks like, with a sum for attention."""
    b = Builder("parallel")
    x = b.input("x", dtype, 2, 3, WIDTH)
    q, k, v = b.split(linear(b, "qkv", x, 3 * WIDTH), axis=-1, sizes=(WIDTH,) * 3, names=("q", "k", "v"))
    active = b.gelu(linear(b, "up", x, INNER, bias=True), tanh=True, name="active")
    context = b.add(b.mul(q, k, name="qk"), v, name="context")
    hidden = b.add(x, linear(b, "out", context, WIDTH), name="after")
    b.output("y", b.add(hidden, linear(b, "down", active, WIDTH, bias=True), name="y"))
    return b.build()


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [("int4:group=32", DType.f16), ("int4:group=32", DType.f32), ("int8", DType.f32),
     ("fp8:act=off:weights=channel", DType.bf16), ("int8:act=token", DType.f16),
     ("fp8:act=token", DType.f32)],
)  # fmt: skip
def test_a_parallel_layer_is_two_products(recipe: str, dtype: DType, tmp_path: Path) -> None:
    graph = run_pipeline(parallel_layer(dtype), f"quant={recipe}:only=qkv+up+out+down").graph
    options = BuildOptions(reuse=False, plugins=("products", "rounded", "attention"))
    found, expected, record, _ = built(graph, tmp_path, random_inputs(dtype, 2, 3, WIDTH), options)
    assert (found - expected).norm() / expected.norm() < TOLERANCE[dtype]
    first, second = layers(record)
    assert [*map(tuple, first.params["sections"])] == [(3 * WIDTH, None), (INNER, "gelu_tanh")]
    assert first.params["rows"] == 3 * WIDTH + INNER and not first.params["widths"]
    assert (tuple(second.params["widths"]), second.params["rows"]) == ((WIDTH, INNER), WIDTH)
    assert first.params["bias"] and second.params["bias"]
    assert second.name == "y/product" and "MATRIX_MULTIPLY" not in {layer.kind for layer in record.layers}


def slices(record: NetworkRecord) -> list[str]:
    """The layers that cut a tensor."""
    return [layer.name for layer in record.layers if layer.kind == "SLICE"]


def test_what_a_product_reads_of_another_one_is_not_copied(tmp_path: Path) -> None:
    graph = run_pipeline(parallel_layer(DType.f16), "quant=int8:only=qkv+up+out+down").graph
    _, _, record, _ = built(graph, tmp_path, random_inputs(DType.f16, 2, 3, WIDTH), JOINED)
    assert slices(record) == ["q/0", "q/1", "q/2"]
    assert tuple(layers(record)[1].params["starts"]) == (0, 3 * WIDTH)
    assert {record.tensors[name].shape for name in ("q", "k", "v")} == {(2, 3, WIDTH)}


def test_a_record_with_joined_weights_is_read_back(tmp_path: Path) -> None:
    graph = run_pipeline(parallel_layer(DType.f16), "quant=int4:group=32:only=qkv+up+out+down").graph
    _, _, record, _ = built(graph, tmp_path, random_inputs(DType.f16, 2, 3, WIDTH), JOINED)
    record.write(tmp_path / "again.json")
    again = read_record(tmp_path / "again.json")
    assert again.weights == record.weights
    joined = [weight.joined for weight in again.weights.values() if weight.joined]
    assert len(joined) == 6 and {each.nbytes for each in joined} == {
        record.tensors[name].nbytes for name, weight in record.weights.items() if weight.joined
    }


def names(graph: Graph, folder: Path, kinds: Sequence[str] = JOINED.plugins) -> list[list[str]]:
    """The linears of each layer that plans have for a graph."""
    write_ranks(graph, folder)
    stored = read_graph(folder / "rank0.ir")
    found = product_layers(stored, products_of(stored, ("products", "dense")), kinds)
    return sorted([product.linear.name for product in layer.products] for layer in found)


def test_linears_whose_weights_are_stored_in_other_ways_stay_apart(tmp_path: Path) -> None:
    b = Builder("mixed")
    x = b.input("x", DType.f16, 4, 128)
    ys = [
        b.linear(x, weight(b, dtype, scale, zero=zero), name=name)
        for name, dtype, scale, zero in (
            ("a", DType.i8, (64, 1), False), ("b", DType.i8, (64, 4), False), ("c", DType.i4, (64, 4), False),
            ("d", DType.i4, (64, 4), True), ("e", DType.i4, (64, 4), False), ("f", DType.i8, (1, 1), False),
        )
    ]  # fmt: skip
    b.output("y", b.concat(*ys, axis=-1, name="y"))
    assert names(b.build(), tmp_path) == [["a", "f"], ["b"], ["c", "e"], ["d"]]


def test_linears_over_floats_stay_apart(tmp_path: Path) -> None:
    assert names(parallel_layer(DType.f16), tmp_path) == [["down"], ["out"], ["qkv"], ["up"]]


@pytest.mark.parametrize("reader", ["output", "relu", "twice"])
def test_a_linear_that_is_read_elsewhere_is_not_added_up_in_the_product(reader: str, tmp_path: Path) -> None:
    b = Builder("read")
    x, z = (b.input(name, DType.f16, 4, 128) for name in ("x", "z"))
    first, second = (
        b.linear(each, weight(b, DType.i8, (64, 1), zero=False), name=name) for each, name in ((x, "a"), (z, "b"))
    )
    total = b.add(first, second if reader != "twice" else b.add(second, second), name="y")
    b.output("y", total)
    if reader != "twice":
        b.output("other", second if reader == "output" else b.relu(b.add(second, second)))
    assert names(b.build(), tmp_path) == [["a"], ["b"]]


def test_columns_that_the_kernels_do_not_read_together_stay_apart(tmp_path: Path) -> None:
    b = Builder("odd")
    x, z = b.input("x", DType.f16, 4, 128), b.input("z", DType.f16, 4, 144)
    small = b.random(key="s", dtype=DType.f16, shape=(64, 144), name="s")
    b.output("y", b.add(b.linear(x, weight(b, DType.i8, (64, 1), zero=False), name="a"), b.linear(z, small, name="b")))
    graph = run_pipeline(b.build(), "quant=int8:only=b").graph
    assert names(graph, tmp_path) == [["a"], ["b"]]  # their columns have the common divisor 16


@pytest.mark.parametrize("dtype", [DType.i4, DType.i8])
def test_zero_points_are_joined(dtype: DType, tmp_path: Path) -> None:
    b = Builder("zeros")
    x = b.input("x", DType.f16, 5, 128)
    first, second = (b.linear(x, weight(b, dtype, (64, 2), zero=True), name=name) for name in "ab")
    b.output("y", b.concat(second, first, axis=-1, name="y"))
    found, expected, record, _ = built(b.build(), tmp_path, random_inputs(DType.f16, 5, 128), JOINED)
    assert (found - expected).norm() / expected.norm() < 2e-3
    assert [len(layer.params["sections"]) for layer in layers(record)] == [2]
    assert record.tensors[str(layers(record)[0].inputs[3])].shape == (2, 128)


def test_linears_of_one_input_stay_apart_where_tensorrt_would_have_to_cut_their_results(tmp_path: Path) -> None:
    graph = run_pipeline(parallel_layer(DType.f16), "quant=int8:only=qkv+up+out+down").graph
    assert names(graph, tmp_path, ("products",)) == [["out", "down"], ["qkv"], ["up"]]
    assert names(graph, tmp_path) == [["out", "down"], ["qkv", "up"]]
