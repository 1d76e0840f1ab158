"""What a decode step reads, against the tensors of the engine's files."""

import json
import struct

import pytest

import llmc
from compiler.ir.files import read_graph
from llmc import step_cost
from llmc.step_cost import StepBytes, bytes_of_ranks, measured_bandwidth, step_bytes, usual_bandwidth
from tests.paths import MODELS


def stored(path):
    """The bytes of each tensor in a file of weights."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return {
        name: entry["data_offsets"][1] - entry["data_offsets"][0]
        for name, entry in header.items()
        if name != "__metadata__"
    }


@pytest.mark.parametrize(
    ("model", "passes"),
    [("gptneox", ""), ("gptneox", "quant=int4"), ("opt", ""), ("mpt", "quant=int8,cache=paged"), ("gptneox", "tp=2")],
)
def test_a_step_reads_all_weights_but_tables_of_embeddings(tmp_path, model, passes):
    compiled = llmc.compile(MODELS / f"{model}-tiny", tmp_path / "e", passes=passes, dtype="float32")
    found = step_bytes(read_graph(compiled.path / "rank0.ir"))
    tensors = stored(compiled.path / "rank0.safetensors")
    # The table of tokens counts where it is the head, too.
    tables = [name for name in tensors if name.startswith(("embed", "positions")) and name.endswith("weight")]
    tables = [name for name in tables if model == "gptneox" or "position" in name]
    assert tables or model == "mpt"
    assert found.weights == pytest.approx(sum(tensors.values()) - sum(tensors[name] for name in tables), rel=2e-3)
    layers, width, ranks = 4, 128, 2 if passes == "tp=2" else 1
    assert found.cache_per_token == 2 * layers * width * 4 // ranks
    assert compiled.step == found
    assert compiled.to_json()["step_bytes"] == {"weights": found.weights, "cache_per_token": found.cache_per_token}


def test_what_a_step_reads_grows_with_the_sequences():
    assert StepBytes(100, 3).read(2, 10.5) == 100 + 2 * 10.5 * 3


def test_ranks_of_a_stage_read_at_once_and_stages_in_turn():
    ranks = [StepBytes(10, 1), StepBytes(12, 1), StepBytes(20, 2), StepBytes(19, 2)]
    assert bytes_of_ranks(ranks, 2, one_memory=False) == StepBytes(32, 3)
    assert bytes_of_ranks(ranks, 2, one_memory=True) == StepBytes(61, 6)


def test_a_dry_run_tells_what_a_step_would_read(tmp_path):
    dry = llmc.dry_run(MODELS / "opt-tiny", tmp_path / "e", passes="quant=int8", dtype="float32")
    made = llmc.compile(MODELS / "opt-tiny", tmp_path / "e", passes="quant=int8", dtype="float32")
    assert dry.step == made.step
    assert dry.to_json()["step_bytes"]["weights"] == dry.step.weights > 0


def test_the_bandwidth_says_where_it_is_from(monkeypatch):
    assert measured_bandwidth("cpu", size=2**20, repeats=2) > 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name, rate in (("NVIDIA H100 80GB HBM3", 3.35e12), ("NVIDIA A100-SXM4-80GB", 2.0e12), ("NVIDIA L4", 0.3e12)):
        usual_bandwidth.cache_clear()
        monkeypatch.setattr("torch.cuda.get_device_name", lambda index, name=name: name)
        assert usual_bandwidth() == step_cost.Bandwidth(rate, f"{name}, by its data sheet")
    usual_bandwidth.cache_clear()
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "Some GPU")
    assert usual_bandwidth() is None
    usual_bandwidth.cache_clear()
