"""What a build says when it cannot be done, what it keeps, and where it finds its weights."""

from __future__ import annotations

import sys

import pytest
import torch

import llmc
from compiler.backend_trt import BuildOptions
from compiler.backend_trt.messages import ops_named
from compiler.backend_trt.places import find_constants
from compiler.backend_trt.profiles import profiles_of
from compiler.backend_trt.support import require_support
from compiler.errors import TargetError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.op import op
from compiler.ir.types import TensorType
from compiler.trt.library import load_library
from compiler.trt.record import read_record
from runtime.manifest import read_manifest
from tests.backend_trt.networks import build

MODEL = "examples/models/opt-tiny"


@op
def of_a_plugin(x: TensorType) -> TensorType:
    """An op that no target knows."""
    return x


def graph_of(make, dtype=DType.f32):
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4)}
    x = b.input("x", dtype, symbol("B"), 8)
    with b.scope("layers.0", "model.layers.0"):
        b.output("y", make(b, x))
    return b.build()


def test_an_op_without_rule_is_named_with_its_module():
    graph = graph_of(lambda b, x: b.of_a_plugin(x, name="odd"))
    with pytest.raises(TargetError, match=r"of_a_plugin %layers.0.odd from model.layers.0: there is no rule") as caught:
        require_support(graph)
    assert "backend_trt" in str(caught.value.hint)


def test_an_element_type_without_tensors_is_named():
    with pytest.raises(TargetError, match=r"%x is f64\[B,8\], which TensorRT does not compute in"):
        require_support(graph_of(lambda b, x: b.relu(x), DType.f64))


def test_a_refused_layer_is_mapped_back(tmp_path):
    graph = graph_of(lambda b, x: b.sin(b.cast(x, dtype=DType.bf16), name="wave"), DType.f16)
    build(graph, tmp_path)  # this one is allowed
    named = ops_named(graph, ["Error: layers.0.wave: no implementation"])
    assert [o.name for o in named] == ["layers.0.wave"]
    assert not ops_named(graph, ["Error: layers.0.waves: no implementation"])


def test_a_step_graph_has_a_decode_and_a_prefill_profile():
    graph = llmc.lift(MODEL)
    decode, prefill = profiles_of(graph)
    assert (decode.name, decode.dims["S"], decode.dims["R"]) == ("decode", (1, 1, 1), (1, 1, 1))
    assert prefill.dims["S"].max == graph.dims["S"].max


def test_constants_are_found_in_the_engine_or_kept_beside_it(tmp_path):
    torch.manual_seed(0)
    large, other, small = torch.randn(300, 300), torch.randn(300, 300).half(), torch.randn(4)
    engine, rest = tmp_path / "engine", tmp_path / "rest"
    engine.write_bytes(b"x" * 24 + bytes(large.numpy().data) + b"tail" * 8)
    places = find_constants(engine, {"large": large, "other": other, "small": small}, rest)
    assert (places["large"].file, places["large"].offset) == ("engine", 24)
    for name, tensor in (("other", other), ("small", small)):
        place = places[name]
        data = (tmp_path / place.file).read_bytes()[place.offset : place.offset + place.nbytes]
        assert place.file == "rest"
        assert data == bytes(tensor.numpy().data)


def test_a_changed_weight_is_not_taken_for_the_given_one(tmp_path):
    given = torch.arange(90_000, dtype=torch.float32)
    changed = given.clone()
    changed[45_000] += 1
    (tmp_path / "engine").write_bytes(bytes(changed.numpy().data))
    places = find_constants(tmp_path / "engine", {"w": given}, tmp_path / "rest")
    assert places["w"].file == "rest"


def test_an_engine_directory_with_both_targets(tmp_path):
    compiled = llmc.compile(MODEL, tmp_path / "e", target="tensorrt-rtx,torch", max_seq=64)
    targets = read_manifest(compiled.path).targets
    assert set(targets) == {"tensorrt-rtx", "torch"}
    record = read_record(compiled.path / targets["tensorrt-rtx"][0]["network"])
    assert [profile.name for profile in record.profiles] == ["decode", "prefill"]
    assert set(record.aliases.values()) == {name for name in record.inputs if name.startswith("cache.")}
    assert record.tensors["cache.0.k"].shape == (-1, 4, 64, 32)
    assert not list(compiled.path.glob(".*"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tokens_equal_the_interpreters(dtype, tmp_path):
    engine = llmc.compile(MODEL, tmp_path / "e", target="tensorrt-rtx", dtype=dtype, max_seq=64).path
    prompts = [[5, 6, 7, 8, 9], [100, 3], [44, 55, 66, 77, 88, 99, 11, 22]]
    emulated, meant = (
        [c.token_ids for c in llmc.load(engine, executor=name).generate(prompts, max_new_tokens=16, ignore_eos=True)]
        for name in ("emulator", "interpreter")
    )
    assert emulated == meant


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capabilities": ("7.0",)}, "no compute capability '7.0'"),
        ({"optimization_level": 9}, "must be 0 to 5"),
        ({"profiling_verbosity": "loud"}, "no profiling verbosity 'loud'"),
    ],
)
def test_options_that_do_not_exist(options, message):
    with pytest.raises(TargetError, match=message):
        BuildOptions(**options)


def test_an_engine_for_one_compute_capability(tmp_path):
    options = BuildOptions(("8.9",), optimization_level=2, profiling_verbosity="detailed")
    compiled = llmc.compile(MODEL, tmp_path / "e", target="tensorrt-rtx", max_seq=32, build=options)
    assert (compiled.path / "rank0.tensorrt-rtx.engine").stat().st_size


def test_a_missing_package_is_named_with_the_mend(monkeypatch):
    load_library.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(TargetError, match="tensorrt_rtx") as caught:
        load_library("tensorrt-rtx")
    assert "pip install" in str(caught.value.hint)
    load_library.cache_clear()
