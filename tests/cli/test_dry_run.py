"""`llmc compile --dry-run`: everything is checked and told, and nothing is read, calibrated or written."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import llmc as api
from compiler.passes.quant.calibration.source import CalibrationSource, current_calibration
from tests.cli.llmc_command import llmc
from tests.paths import MODELS

MODEL = MODELS / "opt-tiny"

# EleutherAI/gpt-neox-20b.
NEOX_20B = {
    "model_type": "gpt_neox", "hidden_act": "gelu_fast", "hidden_size": 6144, "intermediate_size": 24576,
    "num_attention_heads": 64, "num_hidden_layers": 44, "rotary_pct": 0.25, "rotary_emb_base": 10000,
    "max_position_embeddings": 2048, "vocab_size": 50432, "layer_norm_eps": 1e-5, "use_parallel_residual": True,
    "tie_word_embeddings": False, "torch_dtype": "float16", "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither weights nor windows of text."""

    def read(*_: Any, **__: Any) -> Any:
        pytest.fail("data is read")

    monkeypatch.setattr("llmc.compiling.driver.emit", read)
    monkeypatch.setattr("compiler.ir.tensor_data.read_tensor", read)
    monkeypatch.setattr("compiler.ir.interpreter.Interpreter.evaluate", read)
    monkeypatch.setattr(CalibrationSource, "windows", read)


def test_reading_data_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="data is read"):
        api.compile(MODEL, tmp_path / "engine", dtype="float32", max_seq=64)
    with pytest.raises(pytest.fail.Exception, match="data is read"):
        api.compile(MODEL, tmp_path / "engine", passes="quant=awq", max_seq=64)


def test_a_model_of_20_billion_parameters_is_told_from_its_config(tmp_path: Path) -> None:
    (tmp_path / "neox").mkdir()
    (tmp_path / "neox" / "config.json").write_text(json.dumps(NEOX_20B))
    arguments = ("compile", tmp_path / "neox", "-o", tmp_path / "deep" / "engine", "--dummy-weights", "--dry-run")
    result = llmc(*arguments, "--passes", "quant=awq,tp=2", "--dump-ir", tmp_path / "dumps", "--json")
    assert result.status == 0, result.err
    content = json.loads(result.out)
    assert content["dry_run"] is True
    assert content["path"] == str(tmp_path / "deep" / "engine")
    assert content["pipeline"] == "quant=awq,tp=2,merge-linears,fuse-attention,cleanup"
    assert content["mesh"] == {"tp": 2, "pp": 1}
    assert content["model"]["parameters"] == 20_554_567_680
    assert content["limits"] == {"max_batch": 8, "max_input": 2048, "max_seq": 2048}
    assert content["targets"] == ["torch"]
    assert content["dummy_weights"] is True
    # Linears of 4 bits, and a scale of 32 for a block of 128; embedding and head of 16, both on both ranks.
    linears, table = 44 * 12 * 6144**2, 50432 * 6144
    assert content["needed_bytes"] == pytest.approx(linears * (4 + 32 / 128) / 8 + 2 * table * 2 * 2, rel=0.01)
    assert content["free_bytes"] > 0
    assert list(content["pass_timings"]) == ["quant", "tp", "merge-linears", "fuse-attention", "cleanup"]
    assert any("has no tokenizer" in note for note in content["notes"])
    assert sorted(os.listdir(tmp_path)) == ["dumps", "neox"]
    assert sorted(os.listdir(tmp_path / "dumps")) == [
        *("00-lift.ir", "01-quant.ir", "02-tp.ir", "03-merge-linears.ir", "04-fuse-attention.ir", "05-cleanup.ir")
    ]
    last = api.read_graph(tmp_path / "dumps" / "05-cleanup.ir")
    assert sum(op.kind.name == "attention" for op in last.ops) == 44
    assert "all_reduce" in {op.kind.name for op in last.ops}


def test_people_get_a_summary_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    place = tmp_path / "engine"
    sizes = ("--max-batch", 2, "--max-seq", 64, "--prompt-sizes", "32")
    arguments = ("compile", MODEL, "-o", place, "--target", "tensorrt-rtx", "--passes", "kv=int8,tp=2", *sizes)
    result = llmc(*arguments, "--dry-run", "--explain")
    assert result.status == 0, result.err
    shown = " ".join(result.out.split())
    assert f"dry run {place} would be written" in shown
    assert "pipeline kv=int8,tp=2,merge-linears,fuse-attention,cleanup" in shown
    assert "target tensorrt-rtx (3 plans), torch, 2 ranks" in shown
    assert "tensorrt-rtx plans decode-b1-c128, decode-b2-c128, prefill-s32-c128" in shown
    assert "disk about " in shown
    assert "kv=int8: 189 ops became" in shown
    assert "calibrating" not in result.err
    assert os.listdir(tmp_path) == []
    assert llmc(*arguments, "--dry-run", "-q") == (0, "", "")


def test_an_engine_that_is_there_is_not_touched(engine: Path) -> None:
    before = {path.name: path.stat() for path in engine.iterdir()}
    assert llmc("compile", MODEL, "-o", engine, "--dry-run", "-q").status == 0
    assert {path.name: path.stat() for path in engine.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--passes", "quant=awq,tp=3"], "tp=3 cannot split"),
        (["--passes", "quant=awq:group=100"], "group=100 does not divide"),
        (["--passes", "nonsense"], "there is no pass 'nonsense'"),
        (["--max-seq", 9999], "the model has learned only 512 positions"),
        (["--calib-length", 9999], "calibration windows of 9999 tokens do not fit"),
        (["--calib", "missing.txt"], "cannot read the calibration text missing.txt"),
        (["--target", "tensorrt-rtx", "--batch-sizes", "9"], "a plan for a batch of 9 was asked for"),
        (["--dump-ir", MODEL], "which is a checkpoint"),
        (["-o", MODEL], "is not an llmc engine; it is not overwritten"),
        (["-o", MODEL / "config.json" / "engine"], "is no folder to write in"),
    ],
)
def test_what_compile_refuses_a_dry_run_refuses(tmp_path: Path, arguments: list[Any], message: str) -> None:
    if "tensorrt-rtx" in arguments:
        pytest.importorskip("tensorrt_rtx")
    place = () if "-o" in arguments else ("-o", tmp_path / "engine")
    llmc("compile", MODEL, *place, "--dry-run", "-q", *arguments).failed(message)
    assert os.listdir(tmp_path) == []


def test_a_lack_of_room_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("runtime.engine_dir.engine_writer.shutil.disk_usage", lambda folder: usage)
    llmc("compile", MODEL, "-o", tmp_path / "engine", "--dry-run", "-q").failed("the engine needs ")


def test_a_pass_of_the_users_that_calibrates_is_named(tmp_path: Path) -> None:
    def look(graph: api.Graph) -> api.Graph:
        current_calibration().windows(graph)
        return graph

    with pytest.raises(api.LlmcError, match="the pass 'look' needs data, so that a dry run cannot tell"):
        api.dry_run(MODEL, tmp_path / "engine", passes=["dce", look])


def test_the_library_gives_the_graph_too(tmp_path: Path) -> None:
    run = api.dry_run(MODEL, tmp_path / "engine", passes="quant=int8", dtype="float32", max_seq=64)
    assert isinstance(run, api.DryRun)
    assert asdict(run.manifest.limits) == {"max_batch": 8, "max_input": 64, "max_seq": 64}
    assert run.manifest.pipeline == "dtype=float32,quant=int8,merge-linears,fuse-attention,cleanup"
    assert "dequantize" in {op.kind.name for op in run.graph.ops}
    assert run.to_json()["pipeline"] == run.manifest.pipeline
