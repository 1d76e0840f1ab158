"""`llmc inspect` on the plans of a TensorRT engine, from their records alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.trt_network.plans import PlanFiles, Plans
from compiler.trt_network.record import LayerRecord, NetworkRecord, ProfileRecord, TensorRecord, Weight
from tests.cli.llmc_command import llmc

TENSORS = [
    TensorRecord("token_ids", "INT32", (-1, -1)),
    TensorRecord("cache.0.k", "HALF", (-1, 2, 16, 4)),
    TensorRecord("cache.0.v", "HALF", (-1, 2, 16, 4)),
    TensorRecord("k", "HALF", (-1, 2, 16, 4)),
    TensorRecord("v", "HALF", (-1, 2, 16, 4)),
    TensorRecord("w", "HALF", (10, 8)),
    TensorRecord("w/rows", "HALF", (2, 8)),
    TensorRecord("w/again", "HALF", (10, 8)),
    TensorRecord("table", "FLOAT", (6,)),
    TensorRecord("scale", "FLOAT", (1,)),
    TensorRecord("logits", "FLOAT", (-1, 1, 10)),
]
CACHES = dict.fromkeys(("cache.0.k", "cache.0.v"), ((1, 2, 16, 4), (3, 2, 16, 4), (3, 2, 16, 4)))
RECORD = NetworkRecord(
    name="tiny",
    package="tensorrt_rtx 1.6.1",
    tensors={tensor.name: tensor for tensor in TENSORS},
    layers=(
        LayerRecord("table", "CONSTANT", (), ("table",)),
        LayerRecord("scale", "CONSTANT", (), ("scale",)),
        LayerRecord("k", "KV_CACHE_UPDATE", ("cache.0.k", "w", None), ("k",), metadata='{"module": "attn", "op": "k"}'),
        LayerRecord("v", "KV_CACHE_UPDATE", ("cache.0.v", "w", None), ("v",), metadata="not JSON"),
        LayerRecord("logits", "GATHER", ("w", "token_ids"), ("logits",)),
    ),
    inputs=("token_ids", "w", "cache.0.k", "cache.0.v", "w/rows", "w/again"),
    outputs=("logits", "k", "v"),
    profiles=(
        ProfileRecord("narrow", {"token_ids": ((1, 1), (3, 1), (3, 1)), **CACHES}),
        ProfileRecord("wide", {"token_ids": ((1, 1), (3, 5), (3, 9)), **CACHES}),
    ),
    weights={"w": Weight("head"), "w/rows": Weight("head", 256), "w/again": Weight("head")},
    constants={"table": Weight("table"), "scale": bytes(4)},
)
FIXED = replace(
    RECORD,
    tensors={**RECORD.tensors, "token_ids": TensorRecord("token_ids", "INT32", (3, 1))},
    layers=RECORD.layers[2:],
    profiles=(),
    constants={},
)
RECORDS = {"wide-c16": RECORD, "decode-b3-c16": FIXED}


@pytest.fixture
def recorded(engine: Path, tmp_path: Path) -> Path:
    """A copy of an engine that says that it has TensorRT plans, too."""
    copy = tmp_path / "recorded"
    shutil.copytree(engine, copy)
    plans = [PlanFiles(name, f"{name}.engine", f"{name}.network.json") for name in RECORDS]
    Plans("rank0.safetensors", tuple(plans)).write(copy / "plans.json")
    for plan in plans:
        RECORDS[plan.name].write(copy / plan.network)
        (copy / plan.engine).write_bytes(bytes(1000))
    content: dict[str, Any] = json.loads((copy / "manifest.json").read_text())
    rank = {"graph": "rank0.ir", "weights": "rank0.safetensors", "plans": "plans.json"}
    content["targets"]["tensorrt-rtx"] = {"ranks": [rank]}
    content["capabilities"] = ["8.9", "12.0"]
    for name in ("plans.json", *(file for plan in plans for file in (plan.engine, plan.network))):
        content["files"][name] = {"bytes": (copy / name).stat().st_size, "sha256": ""}
    (copy / "manifest.json").write_text(json.dumps(content))
    return copy


def test_json_holds_the_facts_of_all_plans(recorded: Path) -> None:
    facts = json.loads(llmc("inspect", recorded, "--json").out)["tensorrt"]
    assert (facts["target"], facts["package"]) == ("tensorrt-rtx", "tensorrt_rtx 1.6.1")
    assert facts["capabilities"] == ["8.9", "12.0"]
    assert (facts["weights_file"], facts["engine_bytes"]) == ("rank0.safetensors", 2000)
    assert [plan["name"] for plan in facts["plans"]] == list(RECORDS)
    wide, fixed = facts["plans"]
    assert wide["sizes"] == {"B": -1, "S": -1, "R": 1, "C": 16}
    assert fixed["sizes"] == {"B": 3, "S": 1, "R": 1, "C": 16}
    assert wide["layers"] == {"CONSTANT": 2, "KV_CACHE_UPDATE": 2, "GATHER": 1}
    assert wide["precisions"] == {
        "HALF": {"tensors": 7, "weight_bytes": 192, "constant_bytes": 0},  # two inputs at one place
        "FLOAT": {"tensors": 3, "weight_bytes": 0, "constant_bytes": 28},
        "INT32": {"tensors": 1, "weight_bytes": 0, "constant_bytes": 0},
    }
    assert wide["weights"] == {"inputs": 3, "bytes": 192}
    assert wide["constants"] == {"layers": 2, "bytes": 28}
    assert wide["engine_bytes"] == 1000
    assert wide["inputs"] == {"token_ids": {"dtype": "INT32", "shape": [-1, -1]}}
    assert wide["caches"]["cache.0.v"] == {"dtype": "HALF", "shape": [-1, 2, 16, 4], "output": "v"}
    assert list(wide["outputs"]) == ["logits"]
    assert wide["cache_bytes"] == 2 * 3 * 2 * 16 * 4 * 2
    assert [profile["name"] for profile in wide["profiles"]] == ["narrow", "wide"]
    assert wide["profiles"][1]["shapes"]["token_ids"] == {"min": [1, 1], "opt": [3, 5], "max": [3, 9]}
    assert "layer_list" not in wide


def shown(engine: Path, *arguments: str) -> dict[str, str]:
    """The rows of the table by their heads, each on one line."""
    rows: dict[str, str] = {}
    head = ""
    for line in llmc("inspect", engine, *arguments).out.splitlines():
        first, _, rest = line.strip().partition("  ")
        if not line.startswith("   "):
            head = first
            rows[head] = rest.strip()
        else:
            rows[head] += " " + line.strip()
    return rows


def test_the_table_lists_plans_and_shows_one(recorded: Path) -> None:
    rows = shown(recorded)
    assert rows["tensorrt"] == "tensorrt-rtx, built with tensorrt_rtx 1.6.1 for compute capabilities 8.9, 12.0"
    assert rows["plans"].startswith("2, 2 kB together; all read rank0.safetensors (")
    assert rows["wide-c16"] == (
        "B=any S=any R=1 C=16; 5 layers; engine file 1 kB; 3 weights (192 bytes); caches 1.54 kB"
    )
    assert rows["decode-b3-c16"].startswith("B=3 S=1 R=1 C=16; 3 layers; ")
    assert rows["layers"] == "of decode-b3-c16: KV_CACHE_UPDATE 2, GATHER 1"
    assert rows["step inputs"] == "token_ids INT32[3,1]"
    assert rows["step outputs"] == "logits FLOAT[-1,1,10]"
    assert "4 files of plans" in rows["files"]
    assert ".engine" not in rows["files"]


def test_another_plan_can_be_shown(recorded: Path) -> None:
    rows = shown(recorded, "--plan", "wide-c16")
    assert rows["layers"] == "of wide-c16: CONSTANT 2, KV_CACHE_UPDATE 2, GATHER 1"
    assert "HALF 7 tensors, 192 bytes of weights; FLOAT 3 tensors, 28 bytes of constants" in rows["precisions"]
    assert rows["caches"] == ("cache.0.k (written over by k) and cache.0.v (written over by v) HALF[-1,2,16,4]")
    assert "token_ids [1,1]..[3,5]..[3,9]" in rows["profile wide"]
    llmc("inspect", recorded, "--plan", "wide-c61").failed("there is no plan 'wide-c61'; did you mean", "decode-b3-c16")


def test_layers_of_a_plan_are_listed_one_a_line(recorded: Path) -> None:
    assert len(llmc("inspect", recorded, "--layers").out.splitlines()) == len(FIXED.layers)
    lines = llmc("inspect", recorded, "--layers", "--plan", "wide-c16").out.splitlines()
    assert len(lines) == len(RECORD.layers)
    assert lines[0] == "table  CONSTANT  -> table FLOAT[6]"
    assert lines[2] == "k  KV_CACHE_UPDATE  cache.0.k HALF[-1,2,16,4], w HALF[10,8], - -> k HALF[-1,2,16,4]  from attn"
    plans = json.loads(llmc("inspect", recorded, "--layers", "--json").out)["tensorrt"]["plans"]
    listed = plans[0]["layer_list"]
    assert [layer["name"] for layer in listed] == [layer.name for layer in RECORD.layers]
    assert listed[2]["inputs"][2] is None
    assert listed[2]["origin"] == {"module": "attn", "op": "k"}
    assert listed[3]["origin"] is None
    assert len(plans[1]["layer_list"]) == len(FIXED.layers)


def test_without_plans_there_are_no_layers_to_list(engine: Path) -> None:
    llmc("inspect", engine, "--layers").failed("has no execution plans", "--target tensorrt-rtx")
    llmc("inspect", engine, "--plan", "all").failed("there is no plan 'all'", "has no execution plans")
    assert "tensorrt" not in json.loads(llmc("inspect", engine, "--json").out)


@pytest.mark.parametrize("name", ["wide-c16.network.json", "plans.json"])
def test_a_damaged_file_is_named(recorded: Path, name: str) -> None:
    file = recorded / name
    file.write_bytes(b"{" + file.read_bytes()[1:-2] + b"] ")
    llmc("inspect", recorded).failed(f"{name}", "compile the engine again")
