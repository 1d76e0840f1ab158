"""Where an engine runs, and what its ranks read."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import llmc
from llmc.benchmarking.bench import _engine_bytes, device_of
from llmc.step_cost import StepBytes, step_bytes
from tests.paths import MODELS


@pytest.mark.parametrize(
    ("name", "device", "place"),
    [
        ("torch on 2 ranks", "auto", "cuda"),
        ("torch on 2 ranks", "cpu", "cpu"),
        ("cuda on 2 ranks", "cuda:1", "cuda:1"),
        ("tensorrt-rtx", "auto", "cuda"),
        ("emulator", "auto", "cpu"),
        ("interpreter", "auto", "cpu"),
    ],
)
def test_where_an_engine_runs(monkeypatch: pytest.MonkeyPatch, name: str, device: str, place: str) -> None:
    engine: Any = SimpleNamespace(executor=SimpleNamespace(name=name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(engine, device) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("runtime.executors.kinds._sees_gpu", lambda: True)
    assert device_of(engine, device) == place
    engine.executor.device = torch.device("cuda:3")
    assert device_of(engine, device) == "cuda:3"


def test_all_ranks_of_a_machine_read_its_memory(tmp_path: Any) -> None:
    one = llmc.compile(MODELS / "opt-tiny", tmp_path / "one", dtype="float32").step
    compiled = llmc.compile(MODELS / "opt-tiny", tmp_path / "ranks", passes="tp=2,pp=2", dtype="float32")
    engine: Any = SimpleNamespace(manifest=compiled.manifest, path=compiled.path)
    together, apart = _engine_bytes(engine, "cpu"), _engine_bytes(engine, "cuda")
    assert together.cache_per_token == 2 * apart.cache_per_token == one.cache_per_token
    # Norms and biases are on all ranks, and so is the tied head, on the first and the last stage.
    assert one.weights <= together.weights <= 1.5 * one.weights
    assert apart.weights < 0.8 * together.weights
    assert isinstance(compiled.step, StepBytes)
    assert compiled.step.cache_per_token == apart.cache_per_token
    assert step_bytes(llmc.read_graph(compiled.path / "rank0.ir")).weights < apart.weights
