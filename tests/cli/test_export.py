"""`llmc export`."""

import json
from pathlib import Path

import pytest

from tests.cli.llmc_command import llmc
from tests.paths import MODELS


def test_what_it_prints(tmp_path: Path) -> None:
    result = llmc("export", MODELS / "mpt-tiny", "-o", tmp_path / "out", "--dtype", "bfloat16")
    assert result.status == 0, result.err
    assert result.out.splitlines()[:3] == [
        f"checkpoint  {tmp_path / 'out'} (1.84 MB in 1 file)",
        "format      safetensors, bfloat16",
        "pipeline    dtype=bfloat16",
    ]
    assert "writing the weights ..." in result.err


def test_json(tmp_path: Path) -> None:
    passes = "quant=fp8:weights=channel:act=off:only=layers.0"
    arguments = ("export", MODELS / "gptj-tiny", "-f", "compressed-tensors", "-o", tmp_path / "out", "--passes", passes)
    result = llmc(*arguments, "--calib-samples", 1, "--calib-length", 8, "--json")
    assert result.status == 0, result.err
    made = json.loads(result.out)
    assert (made["format"], made["dtype"], made["quantized"]) == ("compressed-tensors", "float16", 6)
    assert made["pipeline"] == "quant=fp8:only=layers.0:weights=channel:act=off"
    assert sorted(made["files"]) == sorted(path.name for path in (tmp_path / "out").iterdir())
    record = json.loads((tmp_path / "out" / "llmc_export.json").read_text())
    assert record["checkpoint_format"] == "compressed-tensors"
    assert record["source"] == "gptj-tiny"


def test_the_folder_s_usual_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert llmc("export", MODELS / "mpt-tiny", "--quiet").out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mpt-tiny-safetensors"]


def test_an_error_is_told(tmp_path: Path) -> None:
    result = llmc("export", MODELS / "mpt-tiny", "-f", "awq", "-o", tmp_path / "out", "-q")
    result.failed(
        "the format awq is one of quantized checkpoints, and nothing of the model is quantized",
        "formats that can say what the model is: safetensors",
    )
    assert not (tmp_path / "out").exists()
