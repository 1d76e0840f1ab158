"""What cannot work is said before the first calibration window runs."""

from dataclasses import dataclass

import pytest
import torch

import llmc
from compiler.backend_trt import BuildOptions
from compiler.errors import EngineError, LlmcError, PassError, TargetError
from compiler.ir.graph import Graph
from compiler.ir.rewrite import sweep
from compiler.passes import parse_pipeline, run_pipeline
from compiler.passes.quant.calibration.layerwise import LayerwiseCalibration
from compiler.passes.quant.calibration.source import CalibrationSource, current_calibration
from llmc.compiling.dry_pipeline import NeedsDataError, calibrates, dry_pipeline
from llmc.pipeline import compose
from tests.paths import MODELS

MODEL = MODELS / "opt-tiny"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def walked(monkeypatch):
    """Whether calibration ran: what it was about to do, instead of doing it."""
    runs: list[object] = []

    def run(self, *arguments, **options):
        runs.append(self)
        raise PassError("calibration ran")

    monkeypatch.setattr(LayerwiseCalibration, "run", run)
    return runs


def compile_opt(place, passes, **options):
    return llmc.compile(
        MODEL, place, passes=passes, calib_samples=2, calib_length=32, max_batch=2, max_seq=64, **options
    )


@pytest.mark.parametrize(
    ("passes", "options", "error", "message"),
    [
        ("quant=gptq,tp=3", {}, PassError, "tp=3 cannot split the 128 inputs of %layers.0.attn.out"),
        ("quant=awq:only=layers.0,quant=gptq:group=100", {}, PassError, "group=100 does not divide the 128 inputs of"),
        ("quant=gptq:only=layers.0,quant=int8:only=fc9", {}, PassError, "the pattern 'fc9' matches no linear"),
        ("quant=smoothquant,kv=int8,kv=fp8", {}, PassError, r"the cache %cache.0.k is i8\[.*\] already"),
        ("tp=2,kv=int8", {}, PassError, "kv comes before tp and pp"),
        ("quant=auto:bits=4", {}, PassError, "cannot store these weights in 4 bits on average"),
        ("quant=fp8", {"gpus": ("8.6", "8.9")}, TargetError, "compute capability 8.6 has no f8e4m3"),
        ("quant=int8,kv=fp8", {"gpus": ("8.0",)}, TargetError, "compute capability 8.0 has no f8e4m3"),
        ("quant=gptq", {"gpus": ("7.5",)}, TargetError, "compute capability 7.5 has no i4"),
        ("quant=smoothquant", {"gpus": ("7.5",), "dtype": "bfloat16"}, TargetError, "7.5 has no bf16"),
    ],
)
def test_errors_come_first(tmp_path, walked, passes, options, error, message):
    if gpus := options.pop("gpus", ()):
        options |= {"target": "tensorrt-rtx", "build": BuildOptions(gpus)}
        pytest.importorskip("tensorrt_rtx")
    stages = []
    with pytest.raises(error, match=message) as caught:
        compile_opt(tmp_path / "e", passes, **options, progress=lambda stage, done, total: stages.append(stage))
    assert caught.value.hint
    assert not walked
    assert "calibrate" not in stages
    assert not (tmp_path / "e").exists()


def test_a_full_disk_comes_first(tmp_path, walked, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("runtime.engine_dir.engine_writer.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(EngineError, match=r"the engine needs .* free"):
        compile_opt(tmp_path / "e", "quant=gptq")
    assert not walked


def test_what_can_work_calibrates(tmp_path, walked):
    with pytest.raises(PassError, match="calibration ran"):
        compile_opt(tmp_path / "e", "quant=gptq,kv=int8,tp=2")
    assert len(walked) == 1


def types_of(graph):
    """The types of quantized weights, of the inputs of linears, and of caches."""
    linears = {
        op.name: [
            graph.producers[value.name].operands[0].type
            for value in op.operands[:2]
            if value.name in graph.producers and graph.producers[value.name].kind.name == "dequantize"
        ]
        for op in graph.find("linear")
    }
    return linears, {value.name: value.type for value in graph.inputs}


@pytest.mark.parametrize(
    "passes",
    [
        "quant=awq:group=32",
        "quant=gptq:bits=3:only=*.fc2,kv=fp8",
        "quant=gptq:bits=8:group=64",
        "quant=smoothquant:skip=layers.1,kv=int8:scale=tensor",
        "quant=smoothquant:act=static",
        "quant=int8:act=static",
        "quant=fp8:weights=channel",
        "quant=fp8:act=off,tp=2",
    ],
)
def test_a_dry_run_has_the_types_of_the_real_thing(passes):
    graph = llmc.lift(MODEL)
    ids = torch.randint(1000, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    with CalibrationSource(documents=[tuple(ids)], samples=2, length=32, device="cpu").active():
        real = run_pipeline(graph, passes).graph
    dry = dry_pipeline(graph, parse_pipeline(passes))
    assert types_of(dry.graph) == types_of(real)


def test_a_pass_that_calibrates_without_a_dry_run_is_named():
    def own(graph):
        current_calibration().windows(graph)
        return graph

    with pytest.raises(NeedsDataError, match="the pass 'own' needs data") as error:
        dry_pipeline(llmc.lift(MODEL), [own])
    assert "dry_run(self, graph)" in str(error.value.hint)
    assert not calibrates([own])


@dataclass(frozen=True)
class Tempered:
    """A pass of somebody else: it multiplies the logits by a number that it gets from data."""

    def __call__(self, graph: Graph) -> Graph:
        raise PassError("calibration ran")

    def dry_run(self, graph: Graph) -> Graph:
        logits = graph.outputs["logits"]

        def visit(op, builder):
            return builder.scale(builder.again(op), factor=0.5) if op.result is logits else None

        return sweep(graph, visit, pass_name="tempered")


def test_a_pass_of_somebody_else_is_tried_without_data_by_its_own_dry_run(tmp_path):
    assert calibrates([Tempered()])
    dry = dry_pipeline(llmc.lift(MODEL), [Tempered()]).graph
    assert dry.producers[dry.outputs["logits"].name].kind.name == "scale"
    with pytest.raises(PassError, match="tp=3 cannot split"):
        compile_opt(tmp_path / "e", [Tempered(), "tp=3"])
    with pytest.raises(PassError, match="calibration ran"):
        compile_opt(tmp_path / "e", [Tempered(), "tp=2"])


def test_only_what_calibrates_is_tried_without_data():
    assert calibrates(compose("cleanup,quant=int8", None))
    assert calibrates(compose("kv=int8", None))
    assert not calibrates(compose("tp=2", "float32"))


def test_engines_are_for_the_gpus_that_have_their_types(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    build = BuildOptions(batch_sizes=(1,), prompt_sizes=(16,), workers=1)
    place = tmp_path / "e"
    compile_opt(place, "kv=fp8:scale=tensor", target="tensorrt-rtx", build=build)
    assert llmc.load(place, executor="torch", device="cpu").manifest.capabilities == ("8.9", "12.0")


def test_an_error_of_a_pass_names_it_as_the_pipeline_would(tmp_path, walked):
    with pytest.raises(LlmcError) as tried:
        compile_opt(tmp_path / "e", "quant=gptq:group=100")
    with pytest.raises(LlmcError) as real:
        run_pipeline(llmc.lift(MODEL), "quant=int4:group=100")
    assert str(tried.value) == str(real.value)
