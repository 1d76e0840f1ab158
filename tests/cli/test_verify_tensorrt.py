"""`llmc verify` and `llmc inspect` on TensorRT engines, which run on the emulator where there is no GPU."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmc as api
from llmc.divergence import first_divergence
from llmc.localizing import locate
from llmc.trials import Trial
from llmc.watching import WatchedEmulator, WatchedInterpreter
from runtime.engine_folder import open_engine
from runtime.requests import Request
from tests.cli.llmc_command import EXAMPLES, llmc

pytest.importorskip("tensorrt_rtx")

QUICK = ("--prompts", 3, "--max-new-tokens", 4, "--executor", "emulator", "--no-verify")


@pytest.fixture(scope="module")
def trt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TensorRT engine of opt-tiny in float16, for at most 3 sequences of 64 tokens. Do not change it."""
    place = tmp_path_factory.mktemp("engines") / "engine"
    arguments = ("compile", EXAMPLES / "opt-tiny", "-o", place, "--max-batch", 3, "--max-seq", 64, "-q")
    result = llmc(*arguments, "--target", "tensorrt-rtx")
    assert result.status == 0, result.err
    return place


def with_record(engine: Path, copy: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of an engine whose network record has been changed; the manifest lists the new size."""
    shutil.copytree(engine, copy)
    name = open_engine(copy).manifest.targets["tensorrt-rtx"][0]["network"]
    record = json.loads((copy / name).read_text())
    change(record)
    (copy / name).write_text(json.dumps(record))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][name]["bytes"] = (copy / name).stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def layer(record: dict[str, Any], name: str) -> dict[str, Any]:
    return next(found for found in record["layers"] if found["name"] == name)


def test_a_network_agrees_with_its_graph_and_its_checkpoint(trt: Path) -> None:
    for against in ((), ("--against", EXAMPLES / "opt-tiny")):
        content = json.loads(llmc("verify", trt, *QUICK, "--json", *against).out)
        assert content["holds"] is True
        assert content["executor"] == "emulator"
        assert content["tokens_equal"] + content["ties"] == content["tokens"] == 24


def test_the_layer_that_differs_is_named(trt: Path, tmp_path: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        layer(record, "layers.2.ln1.norm")["params"]["epsilon"] = 1.0

    result = llmc("verify", with_record(trt, tmp_path / "bad", change), *QUICK)
    assert result.status == 1
    shown = " ".join(result.out.split())  # where lines are wrapped depends on the terminal
    assert "layer_norm %layers.2.ln1.norm from model.decoder.layers.2.self_attn_layer_norm" in shown
    assert "the emulator and the engine's own graph" in shown


def test_padding_that_a_network_writes_into_caches_does_not_count(trt: Path) -> None:
    files = open_engine(trt).manifest.targets["tensorrt-rtx"][0]
    graph = api.read_graph(trt / files["graph"])
    prompts = ((1,), (2, 3, 4, 5, 6, 7), (8, 9, 10))
    trial = Trial("batch", (1, 2, 3), tuple(Request(prompt, 3) for prompt in prompts), 3)
    emulator, interpreter = WatchedEmulator(trt, files["network"], graph), WatchedInterpreter(graph)
    assert first_divergence(emulator, interpreter, graph, trial, what="", tolerance=0.01) is None
    # The tolerance is what decides: rounding is seen if nothing is allowed.
    found = first_divergence(emulator, interpreter, graph, trial, what="", tolerance=1e-6)
    assert found is not None
    assert found.error < 1e-3


def test_a_right_network_leaves_what_ran_it(trt: Path) -> None:
    engine = api.load(trt, executor="emulator")
    graph = api.read_graph(trt / engine.manifest.targets["tensorrt-rtx"][0]["graph"])
    trial = Trial("alone", (1,), (Request((1, 2), 2),), 1)
    assert locate(engine, graph, None, trial, 0.01) == (None, "no single operation is off by more than the tolerance")
    engine.executor.name = "tensorrt-rtx"
    assert locate(engine, graph, None, trial, 0.01) == (
        None,
        "the emulator computes every operation right: tensorrt-rtx itself differs",
    )


def test_the_network_is_inspected(trt: Path) -> None:
    facts = json.loads(llmc("inspect", trt, "--json").out)
    network = facts["network"]
    assert network["target"] == "tensorrt-rtx"
    assert network["layers"]["ATTENTION"] == 4
    assert network["aliases"]["layers.0.attn.k.cache"] == "cache.0.k"
    assert network["cache_bytes"] == facts["cache"]["bytes_at_limits"] == facts["cache"]["bytes_per_token"] * 3 * 64
