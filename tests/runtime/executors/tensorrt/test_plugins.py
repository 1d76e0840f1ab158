"""Plug-ins of plans: what must be there to run them, and what TensorRT is given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llmc
from compiler.errors import TargetError
from compiler.trt_network.library import Library, load_library
from compiler.trt_network.plans import PlanFiles, Plans, read_plans
from compiler.trt_network.plugin_class import PluginKernels, creator_of, plugin_of, spec_of
from compiler.trt_network.products import PRODUCT, ProductSpec
from compiler.trt_network.record import read_record
from runtime.engine_dir.engine_folder import open_engine
from runtime.executors import kinds
from runtime.executors.tensorrt import plugins
from runtime.executors.tensorrt.plugins import missing_for_plugins, register_plugins

TRT = load_library("tensorrt-rtx").trt
SPEC = ProductSpec("int4", 32, 128, 64, 64, zero=True, activation="relu")
LAUNCHERS: Any = {PRODUCT: lambda spec, device: pytest.fail("nothing is launched")}


class Registry:
    """Stands for TensorRT's registry of creators."""

    def __init__(self, takes: bool = True) -> None:
        self.creators: list[tuple[str, str, str]] = []
        self._takes = takes

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.creators.append((namespace, creator.name, creator.plugin_version))
        return self._takes


def package(registry: Registry) -> Library:
    """TensorRT-RTX with a registry of its own."""
    members = {name: getattr(TRT, name) for name in dir(TRT) if not name.startswith("_")}
    trt: Any = SimpleNamespace(**members | {"get_plugin_registry": lambda: registry})
    return Library("tensorrt-rtx", trt, "1.6.1.120")


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_REGISTERED", {})
    monkeypatch.setattr(plugins, "_FAILURES", {})


def test_a_creator_is_registered_once() -> None:
    registry = Registry()
    first, second = (register_plugins(package(registry), {PRODUCT}, LAUNCHERS) for _ in range(2))
    assert registry.creators == [("llmc", "product", "1")]
    assert first is second and first == []


def test_plans_without_plug_ins_register_nothing() -> None:
    registry = Registry()
    assert register_plugins(package(registry), set(), {}) == []
    assert not registry.creators


def test_a_creator_that_is_refused_is_an_error() -> None:
    with pytest.raises(TargetError, match="refused to register the plug-in llmc::product 1"):
        register_plugins(package(Registry(takes=False)), {PRODUCT}, LAUNCHERS)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(TargetError) as caught:
        register_plugins(package(Registry()), {PRODUCT}, {})
    assert caught.value.message == (
        "the engine's plans call the plug-ins llmc::product, and there are no kernels for llmc::product: the Python "
        "package triton is not installed"
    )
    assert "--executor torch" in str(caught.value.hint) and "--executor emulator" in str(caught.value.hint)
    bare = Library("tensorrt", SimpleNamespace(), "9.0")  # type: ignore[arg-type]
    assert missing_for_plugins(bare, {PRODUCT}, LAUNCHERS) == "tensorrt 9.0 has no plug-ins"
    assert missing_for_plugins(package(Registry()), {"llmc::other"}, LAUNCHERS) == "this llmc does not know llmc::other"


def test_a_plan_gives_back_what_a_plug_in_serialized() -> None:
    kernels = PluginKernels()
    fields = plugin_of(TRT, SPEC, kernels).get_fields_to_serialize()
    assert spec_of(PRODUCT, fields) == SPEC
    made = creator_of(TRT, PRODUCT, kernels).create_plugin("layer", fields, TRT.TensorRTPhase.RUNTIME)
    assert made.spec == SPEC and (made.plugin_namespace, made.plugin_name) == ("llmc", "product")


def test_attributes_that_are_missing_make_no_plug_in() -> None:
    kernels = PluginKernels()
    empty = TRT.PluginFieldCollection([])
    assert creator_of(TRT, PRODUCT, kernels).create_plugin("layer", empty, TRT.TensorRTPhase.RUNTIME) is None
    assert kernels.failures == ["llmc::product: a layer of llmc::product has no attributes"]


def test_a_builder_that_measures_is_told_that_all_is_well() -> None:
    assert plugin_of(TRT, SPEC, PluginKernels()).enqueue([], [], [], [], 0, 0) == 0


def test_lists_of_plans_from_before_plug_ins_are_read(tmp_path: Path) -> None:
    plans = Plans("rank0.safetensors", (PlanFiles("a", "b", "c"),), (PRODUCT,))
    plans.write(tmp_path / "new.json")
    assert read_plans(tmp_path / "new.json") == plans
    text = (tmp_path / "new.json").read_text().replace('"plugins"', '"unknown"')
    (tmp_path / "old.json").write_text(text)
    assert read_plans(tmp_path / "old.json") == Plans("rank0.safetensors", plans.plans)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-NeoX with int4 weights, its products plug-ins."""
    return llmc.compile(
        "examples/models/gptneox-tiny", tmp_path_factory.mktemp("plugins") / "engine", dtype="float32", max_seq=64,
        passes="quant=int4:group=32", target="tensorrt-rtx:plugins=products:batch_sizes=1+2", max_batch=2,
    ).path  # fmt: skip


def test_an_engine_of_int4_runs_emulated(engine: Path) -> None:
    given = ["Once upon a time", "The little dog"]
    emulated, interpreted = (
        [each.token_ids for each in llmc.load(engine, executor=name).generate(given, max_new_tokens=12)]
        for name in ("emulator", "interpreter")
    )
    assert emulated == interpreted
    files = open_engine(engine).rank("tensorrt-rtx")
    listed = read_plans(engine / files["plans"])
    assert listed.plugins == (PRODUCT,) and len(listed.plans) == 3
    for plan in listed.plans:
        record = read_record(engine / plan.network)
        # q, k and v are one, and so are out and down, which are added up.
        assert sum(layer.kind == PRODUCT for layer in record.layers) == 12
        assert "INT4" not in {tensor.dtype for tensor in record.tensors.values()}  # plans hold no weights


def test_auto_leaves_plug_ins_to_others_without_triton(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_engine(engine)
    kind = kinds.TensorRTKind()
    monkeypatch.setattr(kinds, "find_spec", lambda name: None)
    assert kinds._plugin_launchers() == {}
    assert kind.lack(folder, "tensorrt-rtx") == (
        "torch, which is slower than TensorRT: its plans call the plug-ins llmc::product, and the Python package "
        "triton, which has their kernels, is not installed"
    )
    monkeypatch.setattr(kinds, "find_spec", lambda name: object())
    assert kind.lack(folder, "tensorrt-rtx") == ""
