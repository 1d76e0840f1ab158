"""What a build says when it cannot be done, what it writes, and what it takes from earlier ones."""

from __future__ import annotations

import sys

import pytest
from safetensors import safe_open

import llmc
from compiler.backend_trt import BuildOptions
from compiler.backend_trt.build import build_error
from compiler.backend_trt.named_ops import ops_named
from compiler.backend_trt.support.check import require_support
from compiler.errors import TargetError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.op import op
from compiler.ir.types import TensorType
from compiler.trt_network.library import load_library
from compiler.trt_network.messages import NO_GPU, Messages
from compiler.trt_network.plans import read_plans
from compiler.trt_network.record import read_record
from runtime.engine_dir.manifest import read_manifest
from tests.backend_trt.networks import build
from tests.registrations import forgotten

MODEL = "examples/models/opt-tiny"


def graph_of(make, dtype=DType.f32):
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4)}
    x = b.input("x", dtype, symbol("B"), 8)
    with b.scope("layers.0", "model.layers.0"):
        b.output("y", make(b, x))
    return b.build()


def test_an_op_without_rule_is_named_with_its_module():
    with forgotten():

        @op
        def unknown_to_targets(x: TensorType) -> TensorType:
            """Itself."""
            return x

        graph = graph_of(lambda b, x: b.unknown_to_targets(x, name="odd"))
        with pytest.raises(
            TargetError, match=r"unknown_to_targets %layers.0.odd from model.layers.0: there is"
        ) as caught:
            require_support(graph)
    assert "llmc.emits" in str(caught.value.hint)


def test_an_element_type_without_tensors_is_named():
    with pytest.raises(TargetError, match=r"%x is f64\[B,8\], which TensorRT does not compute in"):
        require_support(graph_of(lambda b, x: b.relu(x), DType.f64))


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        (
            "Error Code 2: OutOfMemory (Requested size was 68719505936 bytes.)",
            "--prompt-sizes first, then --capacities",
        ),
        ("Error Code 1: Cuda Runtime (out of memory)", "--prompt-sizes first, then --capacities"),
        ("Error Code 10: Internal Error (Could not find any implementation)", "leave out the pass that made the op"),
    ],
)
def test_the_mend_follows_from_what_tensorrt_says(said, mend):
    trt = load_library("tensorrt-rtx").trt
    messages = Messages(trt, ignored=NO_GPU)
    messages.logger.log(trt.ILogger.Severity.ERROR, said)
    error = build_error("rank0.prefill-s9-c9", graph_of(lambda b, x: b.relu(x)), messages)
    assert error.message == f"TensorRT could not build the plan rank0.prefill-s9-c9: {said}"
    assert mend in str(error.hint)


def test_a_refused_layer_is_mapped_back(tmp_path):
    graph = graph_of(lambda b, x: b.sin(b.cast(x, dtype=DType.bf16), name="wave"), DType.f16)
    build(graph, tmp_path)  # this one is allowed
    named = ops_named(graph, ["Error: layers.0.wave: no implementation"])
    assert [o.name for o in named] == ["layers.0.wave"]
    assert not ops_named(graph, ["Error: layers.0.waves: no implementation"])


def test_an_engine_directory_has_plans_over_the_weights_of_torch(tmp_path):
    compiled = llmc.compile(MODEL, tmp_path / "e", target="tensorrt-rtx", max_seq=64)
    targets = read_manifest(compiled.path).targets
    assert set(targets) == {"tensorrt-rtx", "torch"}
    (rank,) = targets["tensorrt-rtx"]
    assert rank["weights"] == targets["torch"][0]["weights"]
    plans = read_plans(compiled.path / rank["plans"])
    assert [plan.name for plan in plans.plans] == ["decode-b1-c128", "decode-b8-c128", "prefill-s64-c128"]
    stored = safe_open(compiled.path / plans.weights, "pt")
    for plan in plans.plans:
        record = read_record(compiled.path / plan.network)
        assert set(record.aliases.values()) == {name for name in record.inputs if name.startswith("cache.")}
        assert all(-1 not in tensor.shape for tensor in record.tensors.values())
        assert {weight.tensor for weight in record.weights.values()} <= set(stored.keys())
        for name, weight in record.weights.items():
            rows = stored.get_tensor(weight.tensor)
            start = weight.offset // rows[0].nbytes
            shape = record.tensors[name].shape
            assert rows[start : start + shape[-2]].shape == shape[-2:]
    assert not list(compiled.path.glob(".*"))


def test_a_plan_is_taken_from_those_built_before(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    graph = graph_of(lambda b, x: b.relu(b.add(x, b.literal(dtype=DType.f32, shape=(1,), values=(0.5,)))))
    other = graph_of(lambda b, x: b.relu(b.add(x, b.literal(dtype=DType.f32, shape=(1,), values=(0.25,)))))
    folders = [tmp_path / name for name in ("first", "again", "level", "other")]
    options = [BuildOptions(), BuildOptions(workers=1), BuildOptions(optimization_level=1), BuildOptions()]
    kept = []
    for folder, option, which in zip(folders, options, (graph, graph, graph, other), strict=True):
        folder.mkdir()
        build(which, folder, option)
        kept.append(len(list((tmp_path / "cache/llmc/plans").iterdir())))
    assert kept == [1, 1, 2, 3]
    assert len({(folder / "rank0.all.engine").read_bytes() for folder in folders[:2]}) == 1


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
        ({"compute_capability": ("7.0",)}, "no compute capability '7.0'"),
        ({"optimization_level": 9}, "must be 0 to 5"),
        ({"profiling_verbosity": "loud"}, "no profiling verbosity 'loud'"),
        ({"workers": 0}, "0 workers were asked for"),
    ],
)
def test_options_that_do_not_exist(options, message):
    with pytest.raises(TargetError, match=message):
        BuildOptions(**options)


def test_an_engine_for_one_compute_capability(tmp_path):
    options = BuildOptions(("8.9",), optimization_level=2, profiling_verbosity="detailed")
    compiled = llmc.compile(MODEL, tmp_path / "e", target="tensorrt-rtx", max_seq=32, build=options)
    assert compiled.manifest.capabilities == ("8.9",)
    sizes = [(compiled.path / file).stat().st_size for file in compiled.manifest.files if file.endswith(".engine")]
    assert sizes and all(sizes)


def test_a_missing_package_is_named_with_the_mend(monkeypatch):
    load_library.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(TargetError, match="tensorrt_rtx") as caught:
        load_library("tensorrt-rtx")
    assert "pip install" in str(caught.value.hint)
    load_library.cache_clear()
