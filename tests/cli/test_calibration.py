"""`llmc compile` with passes that calibrate."""

import json

import pytest

from tests.cli.llmc_command import llmc
from tests.paths import MODELS

MODEL = MODELS / "opt-tiny"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "calib.txt"
    path.write_text("The function returns a list of the names that are in use. " * 100)
    return path


def test_worst_ops_are_printed_and_the_engine_runs(tmp_path, text):
    place = tmp_path / "engine"
    given = ("--calib", text, "--calib-samples", 3, "--calib-length", 64)
    result = llmc("compile", MODEL, "-o", place, "--passes", "quant=awq", *given)
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("24 quantized ops, relative error of outputs ")
    assert len([line for line in lines if line.endswith("(awq, 4 bits, group 128)")]) == 5
    assert llmc("run", place, "--prompt", "The function", "--max-new-tokens", 4).status == 0


def test_json_has_every_op(tmp_path, text):
    given = ("--calib", text, "--calib-samples", 1, "--calib-length", 32)
    result = llmc("compile", MODEL, "-o", tmp_path / "e", "--passes", "quant=gptq:only=layers.0", *given, "--json")
    ops = json.loads(result.out)["fidelity"]["ops"]
    assert [op["op"] for op in ops][:2] == ["layers.0.attn.q", "layers.0.attn.k"]
    assert all(0 < op["error"] < 0.5 for op in ops)


def test_text_that_comes_with_the_compiler_serves(tmp_path):
    given = ("--calib-samples", 2, "--calib-length", 32)
    assert llmc("compile", MODEL, "-o", tmp_path / "e", "--passes", "quant=fp8", *given).status == 0


def test_one_token_at_once_is_no_obstacle_without_calibration(tmp_path):
    assert llmc("compile", MODEL, "-o", tmp_path / "e", "--max-input", 1).status == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--calib-length", 600),
            "calibration windows of 600 tokens do not fit the model, which takes 2 to 512 at once",
        ),
        (("--calib-samples", 0), "calibration with 0 samples is none"),
        (("--calib", "missing.txt"), "cannot read the calibration text missing.txt: No such file or directory"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, options, message):
    llmc("compile", MODEL, "-o", tmp_path / "e", *options).failed(message)
    assert not (tmp_path / "e").exists()


def test_short_text_is_refused(tmp_path, text):
    text.write_text("Too short.")
    result = llmc("compile", MODEL, "-o", tmp_path / "e", "--passes", "quant=gptq", "--calib", text)
    result.failed("tokens, which are too few: samples=1 of 512 take 512")


def test_report_can_be_left_out(tmp_path):
    given = ("--passes", "quant=int8", "--report", "off", "--json")
    made = json.loads(llmc("compile", MODEL, "-o", tmp_path / "e", *given).out)
    assert made["fidelity"] == made["manifest"]["fidelity"] == {"report": "off", "mean": None, "ops": [], "samples": []}


def test_extent_of_the_report_is_in_the_manifest(tmp_path, text):
    given = ("--passes", "quant=int8", "--calib", text, "--json")
    made = json.loads(llmc("compile", MODEL, "-o", tmp_path / "e", *given).out)
    stored = json.loads((tmp_path / "e" / "manifest.json").read_text())["fidelity"]
    assert stored == made["fidelity"] and stored["report"] == "quick" and len(stored["ops"]) == 24


def test_unknown_report_is_refused(tmp_path):
    result = llmc("compile", MODEL, "-o", tmp_path / "e", "--passes", "quant=int8", "--report", "ful")
    result.failed("there is no report 'ful' of quantization errors; did you mean 'full'?")
    assert not (tmp_path / "e").exists()


def test_report_of_what_no_pass_quantizes_is_a_note(tmp_path):
    result = llmc("compile", MODEL, "-o", tmp_path / "e", "--report", "full", "--dry-run")
    assert "--report does nothing here: no pass quantizes" in result.err
