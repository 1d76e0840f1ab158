"""A hint does not lead to the next error: what it says is done, and works."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from compiler.os_errors import reading_hint
from tests.cli.llmc_command import Result, llmc
from tests.paths import MODELS


def hint_of(result: Result) -> str:
    assert result.status == 2, result.err
    return next(line for line in result.err.splitlines() if line.startswith("hint: ")).removeprefix("hint: ")


def compiled(model: str, place: Path, *arguments: Any) -> Path:
    result = llmc("compile", MODELS / model, "-o", place, "-q", *arguments)
    assert result.status == 0, result.err
    return place


def pairs(options: Sequence[Any]) -> dict[str, Any]:
    """The options by name."""
    return dict(zip(options[::2], options[1::2], strict=True))


LONG = ("--max-new-tokens", 4, "--json", "--prompt-ids")


@pytest.mark.parametrize(
    ("model", "limits", "tokens"),
    [
        ("opt-tiny", ("--max-seq", 64), 65),
        ("opt-tiny", ("--max-seq", 64, "--max-input", 8), 9),
        ("opt-tiny", ("--max-seq", 64), 64),
        ("opt-tiny", (), 511),
        ("gptneox-tiny", (), 512),
        ("gptneox-tiny", (), 600),
        ("mpt-tiny", ("--max-input", 16), 20),
    ],
)
def test_a_longer_prompt_runs_after_compiling_as_the_hint_says(
    tmp_path: Path, model: str, limits: tuple[Any, ...], tokens: int
) -> None:
    prompt = ",".join(["7"] * tokens)
    place = compiled(model, tmp_path / "engine", *limits)
    result = llmc("run", place, *LONG, prompt)
    if result.status == 0:
        assert (model, tokens) == ("opt-tiny", 511)  # one token fits
        return
    options = shlex.split(hint_of(result).partition("or compile with ")[2])
    assert options
    together = {**pairs(limits), **pairs(options)}
    again = compiled(model, tmp_path / "engine", *(part for pair in together.items() for part in pair))
    result = llmc("run", again, *LONG, prompt)
    assert result.status == 0, result.err
    assert json.loads(result.out)["token_ids"]


@pytest.mark.parametrize("tokens", [512, 513, 1000])
def test_positions_that_were_not_learned_are_no_hint(tmp_path: Path, tokens: int) -> None:
    place = compiled("opt-tiny", tmp_path / "engine")
    prompt = ",".join(["7"] * tokens)
    for command in (("run", place, *LONG, prompt), ("verify", place, "--prompt-ids", prompt)):
        assert hint_of(llmc(*command)) == "shorten it: the model has learned only 512 positions"


def test_plans_for_positions_that_were_not_learned_are_no_hint(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    arguments = ("compile", MODELS / "opt-tiny", "-o", tmp_path / "e", "-q", "--target", "tensorrt-rtx", "--dry-run")
    assert hint_of(llmc(*arguments, "--capacities", "513")) == "give other sizes"
    assert hint_of(llmc(*arguments, "--prompt-sizes", "513")) == "give other sizes"
    hint = hint_of(llmc(*arguments, "--max-seq", 64, "--prompt-sizes", "65"))
    assert hint == "give other sizes, or compile with --max-input 65 --max-seq 65"
    options = shlex.split(hint.partition("or compile with ")[2])
    assert llmc(*arguments, "--prompt-sizes", "65", *options).status == 0
    hint = hint_of(llmc(*arguments, "--batch-sizes", "9"))
    assert llmc(*arguments, "--batch-sizes", "9", *shlex.split(hint.partition("or compile with ")[2])).status == 0


def test_windows_that_calibrate_fit_what_the_hint_says(tmp_path: Path) -> None:
    arguments = ("compile", MODELS / "opt-tiny", "-o", tmp_path / "e", "-q", "--dry-run", "--calib-length")
    assert hint_of(llmc(*arguments, 513)) == "use --calib-length 512 or less, but at least 2"
    assert hint_of(llmc(*arguments, 65, "--max-input", 64)) == (
        "use --calib-length 64 or less, but at least 2, or compile with a larger --max-input"
    )
    assert llmc(*arguments, 512).status == llmc(*arguments, 65, "--max-input", 65).status == 0
    assert hint_of(llmc(*arguments, 8, "--max-input", 1)) == "compile with a larger --max-input"
    assert hint_of(llmc(*arguments, 8, "--max-seq", 1)) == "compile for sequences of 2 tokens or more: --max-seq"


@pytest.mark.parametrize(
    ("window", "hint"),
    [
        (600, "use --window 32 or less"),
        (33, "use --window 32 or less, or compile with --max-input 33"),
    ],
)
def test_windows_to_score_fit_what_the_hint_says(tmp_path: Path, window: int, hint: str) -> None:
    place = compiled("opt-tiny", tmp_path / "engine", "--max-input", 32)
    text = tmp_path / "text.txt"
    text.write_text("The function returns a list of the names. " * 20)
    assert hint_of(llmc("eval", "ppl", place, "--text", text, "--window", window, "-q")) == hint


def test_an_engine_of_several_ranks_is_not_scored(tmp_path: Path) -> None:
    place = compiled("opt-tiny", tmp_path / "engine", "--passes", "tp=2", "--max-seq", 32)
    text = tmp_path / "text.txt"
    text.write_text("The function returns.")
    result = llmc("eval", "ppl", place, "--text", text, "-q")
    result.failed("is an engine of 2 ranks (tp=2, pp=1), which cannot be scored", "score the checkpoint")


def test_a_file_that_may_not_be_read_is_not_to_be_copied_again(tmp_path: Path, monkeypatch) -> None:
    assert reading_hint(PermissionError(13, "no", "a/b"), "copy it again") == "you may not read it: chmod +r a/b"
    assert reading_hint(OSError(5, "I/O error"), "copy it again") == "copy it again"
    place = compiled("opt-tiny", tmp_path / "engine", "--max-seq", 32)

    def refuse(path: Path, *_: Any) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("runtime.engine_dir.engine_folder.sha256_file", refuse)
    llmc("run", place, "--prompt", "a").failed("Permission denied", "you may not read it: chmod +r")


def test_nobody_is_told_to_remove_a_folder_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert hint_of(llmc("compile", MODELS / "opt-tiny", "-o", tmp_path, "-q")) == "choose another place: -o DIR"
    assert os.listdir(tmp_path) == ["notes.txt"]
