"""What can be wrong with a compilation gets one message, exit status 2, and leaves nothing behind."""

import errno
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.llmc_command import llmc
from tests.paths import MODELS


def edit_config(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def shard_index(folder: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "model.safetensors").rename(folder / names[0])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def rename_tensor(tensors: dict[str, Any]) -> None:
    tensors["gpt_neox.surprise"] = tensors.pop("gpt_neox.final_layer_norm.weight")


def extra_tensor(tensors: dict[str, Any]) -> None:
    tensors["gpt_neox.surprise"] = tensors["gpt_neox.final_layer_norm.weight"].clone()


class Exploit:
    """What an attacker's pickle does when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploited",)


def malicious_bin(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": Exploit()}))
        archive.writestr("archive/version", "3")


CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
    "missing shard": (shard_index, "the shard model-00002-of-00002.safetensors is missing"),
    "truncated": (truncate, "model.safetensors is truncated"),
    "wrong shape": (lambda folder: edit_config(folder, vocab_size=2048), "'gpt_neox.embed_in.weight'"),
    "missing tensor": (lambda folder: edit_weights(folder, rename_tensor), "'gpt_neox.final_layer_norm.weight'"),
    "unknown tensor": (lambda folder: edit_weights(folder, extra_tensor), "'gpt_neox.surprise'"),
    "unsupported value": (lambda folder: edit_config(folder, hidden_act="mish2"), "'hidden_act'"),
    "unsupported model": (lambda folder: edit_config(folder, model_type="llama"), "'model_type' is 'llama'"),
    "strange end": (
        lambda folder: edit_config(folder, eos_token_id="<end>"),
        "config.json: the key 'eos_token_id' is '<end>'",
    ),
    "code in a .bin": (malicious_bin, "pytorch_model.bin"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_bad_checkpoints(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    spoil, message = CHECKPOINTS[case]
    spoil(checkpoint)
    if case == "strange end":
        (checkpoint / "generation_config.json").unlink()
    llmc("compile", checkpoint, "-o", tmp_path / "engine", "--quiet").failed(message)
    assert os.listdir(tmp_path) == ["checkpoint"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--passes", "cleanpu"], "there is no pass 'cleanpu'; did you mean 'cleanup'?", "llmc passes"),
        (["--passes", "dtype=float33"], "not 'float33'", None),
        (["--dtype", "float61"], "there is no --dtype 'float61'; did you mean 'float16'?", "float32"),
        (["--target", "tensorrt"], "the target tensorrt needs the Python package tensorrt", "--target torch"),
        (["--compute-capability", "7.0"], "there is no compute capability '7.0'", "8.9"),
        (["--target", "torhc"], "there is no target 'torhc'; did you mean 'torch'?", "auto, torch"),
        (["--target", ""], "there is no target ''", None),
        (["--max-seq", "0"], "is 0; it must be at least 1", None),
        (["--max-batch", "-1"], "max_batch is -1", None),
        (["--max-input", "99", "--max-seq", "9"], "max_input is 99, more than max_seq, which is 9", "--max-input 9"),
        (["--batch-sizes", "1,x"], "--batch-sizes '1,x' is no list of numbers", "--batch-sizes 1,8"),
        (["--capacities", ""], "--capacities '' is no list of numbers", None),
        (["--workers", "0"], "0 workers were asked for", None),
        (["--plugin", "missing.py"], "there is no plugin missing.py", None),
    ],
)
def test_bad_requests(tmp_path: Path, arguments: list[str], message: str, hint: str | None) -> None:
    result = llmc("compile", MODELS / "gptneox-tiny", "-o", tmp_path / "engine", "-q", *arguments)
    result.failed(message, hint)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ["--batch-sizes", "1,9"],
            "a plan for a batch of 9 was asked for; the engine's go from 1 to 8",
            "--max-batch 9",
        ),
        (
            ["--prompt-sizes", "0"],
            "a plan for a width of 0 was asked for; the engine's go from 1 to 512",
            "other sizes",
        ),
        (
            ["--capacities", "256,300", "--max-seq", "280"],
            "a plan for a capacity of 300 was asked for; the engine's go from 1 to 280",
            "--max-seq 300",
        ),
    ],
)
def test_sizes_of_plans_are_checked_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str, hint: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr("llmc.compiling.driver.emit", lambda *_, **__: pytest.fail("weights are read"))
    place = tmp_path / "engine"
    result = llmc("compile", MODELS / "opt-tiny", "-o", place, "-q", "--target", "tensorrt-rtx", *arguments)
    result.failed(message, hint)
    assert os.listdir(tmp_path) == []


def test_positions_that_the_model_has_not_learned(tmp_path: Path) -> None:
    result = llmc("compile", MODELS / "opt-tiny", "-o", tmp_path / "engine", "-q", "--max-seq", 513)
    result.failed("the model has learned only 512 positions", "--max-seq 512")


def test_no_such_model(tmp_path: Path) -> None:
    llmc("compile", tmp_path / "missing", "-q").failed("there is no folder")


def test_a_folder_of_the_users_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = llmc("compile", MODELS / "gptneox-tiny", "-o", tmp_path, "-q")
    result.failed("is not an llmc engine; it is not overwritten", "-o DIR")
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_the_checkpoint_itself_is_not_overwritten(checkpoint: Path) -> None:
    before = sorted(os.listdir(checkpoint))
    llmc("compile", checkpoint, "-o", checkpoint, "-q").failed("is not an llmc engine; it is not overwritten")
    assert sorted(os.listdir(checkpoint)) == before


def test_dumps_do_not_go_into_the_engine(tmp_path: Path) -> None:
    place = tmp_path / "engine"
    result = llmc("compile", MODELS / "gptneox-tiny", "-o", place, "--dump-ir", place / "dumps", "-q")
    result.failed("which is inside the engine", "--dump-ir")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("compiler.store.safetensors_writer.SafetensorsWriter.write", full)
    result = llmc("compile", MODELS / "gptneox-tiny", "-o", tmp_path / "engine", "-q")
    result.failed(f"the disk is full: {tmp_path} has no space for the engine", "free some space")
    assert os.listdir(tmp_path) == []


def test_debug_shows_the_traceback_before_or_after_the_command() -> None:
    for arguments in (["--debug", "inspect", "missing/model/x"], ["inspect", "missing/model/x", "--debug"]):
        result = llmc(*arguments)
        assert result.status == 2
        assert "Traceback (most recent call last)" in result.err
        assert "error: there is no folder" in result.err


def test_a_bug_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero\nmore")

    monkeypatch.setattr("llmc.inspection.facts.inspect_path", broken)
    result = llmc("inspect", "x")
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines() == [
        "error: llmc failed unexpectedly: ZeroDivisionError: division by zero",
        "hint: this is a bug in llmc; please report it with what --debug shows",
    ]
    assert "Traceback" in llmc("inspect", "x", "--debug").err


@pytest.mark.parametrize(
    "arguments", [["compile"], ["run"], ["nonsense"], ["compile", "x", "--max-batch", "many"], ["run", "x"]]
)
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    result = llmc(*arguments)
    assert result.status == 2
    assert "Usage: llmc" in result.err
