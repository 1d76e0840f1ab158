"""`llmc inspect` on a TensorRT network, from its record alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compiler.trt.record import LayerRecord, NetworkRecord, Place, ProfileRecord, TensorRecord
from tests.cli.llmc_command import llmc

TENSORS = [
    TensorRecord("ids", "INT32", (-1, -1)),
    TensorRecord("cache.0.k", "HALF", (-1, 2, 16, 4)),
    TensorRecord("cache.0.v", "HALF", (-1, 2, 16, 4)),
    TensorRecord("k", "HALF", (-1, 2, 16, 4)),
    TensorRecord("v", "HALF", (-1, 2, 16, 4)),
    TensorRecord("w", "HALF", (10, 8)),
    TensorRecord("w/again", "HALF", (10, 8)),
    TensorRecord("scale", "FLOAT", (1,)),
    TensorRecord("logits", "FLOAT", (-1, -1, 10)),
]
CACHES = dict.fromkeys(("cache.0.k", "cache.0.v"), ((1, 2, 16, 4), (3, 2, 16, 4), (3, 2, 16, 4)))
RECORD = NetworkRecord(
    name="tiny",
    package="tensorrt_rtx 1.6.1",
    tensors={tensor.name: tensor for tensor in TENSORS},
    layers=(
        LayerRecord("w", "CONSTANT", (), ("w",)),
        LayerRecord("w/again", "CONSTANT", (), ("w/again",)),
        LayerRecord("scale", "CONSTANT", (), ("scale",)),
        LayerRecord("k", "KV_CACHE_UPDATE", ("cache.0.k", "w", None), ("k",), metadata='{"module": "attn", "op": "k"}'),
        LayerRecord("v", "KV_CACHE_UPDATE", ("cache.0.v", "w", None), ("v",), metadata="not JSON"),
        LayerRecord("logits", "GATHER", ("w", "ids"), ("logits",)),
    ),
    inputs=("ids", "cache.0.k", "cache.0.v"),
    outputs=("logits", "k", "v"),
    profiles=(
        ProfileRecord("decode", {"ids": ((1, 1), (3, 1), (3, 1)), **CACHES}),
        ProfileRecord("prefill", {"ids": ((1, 1), (3, 5), (3, 9)), **CACHES}),
    ),
    constants={
        "w": Place("rank0.engine", 64, 160),
        "w/again": Place("rank0.engine", 64, 160),
        "scale": Place("rank0.engine", 256, 4),
    },
)


@pytest.fixture
def recorded(engine: Path, tmp_path: Path) -> Path:
    """A copy of an engine that says that it was built for TensorRT, too."""
    copy = tmp_path / "recorded"
    shutil.copytree(engine, copy)
    RECORD.write(copy / "rank0.network.json")
    (copy / "rank0.engine").write_bytes(bytes(1000))
    content: dict[str, Any] = json.loads((copy / "manifest.json").read_text())
    rank = {"engine": "rank0.engine", "network": "rank0.network.json", "graph": "rank0.ir"}
    content["targets"]["tensorrt-rtx"] = {"ranks": [rank]}
    for name in ("rank0.engine", "rank0.network.json"):
        content["files"][name] = {"bytes": (copy / name).stat().st_size, "sha256": ""}
    (copy / "manifest.json").write_text(json.dumps(content))
    return copy


def test_json_holds_the_facts_of_the_network(recorded: Path) -> None:
    network = json.loads(llmc("inspect", recorded, "--json").out)["network"]
    assert (network["target"], network["name"], network["package"]) == ("tensorrt-rtx", "tiny", "tensorrt_rtx 1.6.1")
    assert network["layers"] == {"CONSTANT": 3, "KV_CACHE_UPDATE": 2, "GATHER": 1}
    assert network["precisions"] == {
        "HALF": {"tensors": 6, "constant_bytes": 160},  # two constants at one place
        "FLOAT": {"tensors": 2, "constant_bytes": 4},
        "INT32": {"tensors": 1, "constant_bytes": 0},
    }
    assert network["constant_bytes"] == 164
    assert network["engine_bytes"] == 1000
    assert network["inputs"]["ids"] == {"dtype": "INT32", "shape": [-1, -1]}
    assert list(network["outputs"]) == ["logits", "k", "v"]
    assert network["aliases"] == {"k": "cache.0.k", "v": "cache.0.v"}
    assert network["cache_bytes"] == 2 * 3 * 2 * 16 * 4 * 2
    assert [profile["name"] for profile in network["profiles"]] == ["decode", "prefill"]
    assert network["profiles"][1]["shapes"]["ids"] == {"min": [1, 1], "opt": [3, 5], "max": [3, 9]}
    assert "layer_list" not in network


def test_the_table_shows_them(recorded: Path) -> None:
    lines = llmc("inspect", recorded).out.splitlines()
    rows = {line.split("  ")[0]: line for line in lines if not line.startswith(" ")}
    assert rows["network"].endswith("tensorrt-rtx, built with tensorrt_rtx 1.6.1: 6 layers")
    assert "CONSTANT 3, KV_CACHE_UPDATE 2, GATHER 1" in rows["network layers"]
    assert "ids INT32[-1,-1], cache.0.k and cache.0.v HALF[-1,2,16,4]" in rows["network inputs"]
    assert "ids [1,1]..[3,5]..[3,9]" in rows["profile prefill"]
    assert "k is written over cache.0.k, and 1 more" in rows["aliases"]
    assert "engine file 1 kB, constants 164 bytes, caches at the limits 1.54 kB" in " ".join(" ".join(lines).split())


def test_layers_are_listed_one_a_line(recorded: Path) -> None:
    lines = llmc("inspect", recorded, "--layers").out.splitlines()
    assert len(lines) == len(RECORD.layers)
    assert lines[0] == "w  CONSTANT  -> w HALF[10,8]"
    assert lines[3] == "k  KV_CACHE_UPDATE  cache.0.k HALF[-1,2,16,4], w HALF[10,8], - -> k HALF[-1,2,16,4]  from attn"
    listed = json.loads(llmc("inspect", recorded, "--layers", "--json").out)["network"]["layer_list"]
    assert [layer["name"] for layer in listed] == [layer.name for layer in RECORD.layers]
    assert listed[3]["inputs"][2] is None
    assert listed[3]["origin"] == {"module": "attn", "op": "k"}
    assert listed[4]["origin"] is None


def test_without_a_network_there_are_no_layers_to_list(engine: Path) -> None:
    llmc("inspect", engine, "--layers").failed("has no TensorRT network", "--target tensorrt-rtx")
    assert "network" not in json.loads(llmc("inspect", engine, "--json").out)


def test_a_damaged_record_is_named(recorded: Path) -> None:
    file = recorded / "rank0.network.json"
    file.write_bytes(b"{" + file.read_bytes()[1:-2] + b"] ")
    llmc("inspect", recorded).failed("cannot read", "compile the engine again")
