"""`llmc inspect --explain`: how an engine runs, without a GPU."""

import json
from pathlib import Path

import pytest

from runtime.executors import kinds
from tests.cli.llmc_command import llmc
from tests.paths import MODELS


def test_calls_on_a_cpu_are_shown(engine: Path) -> None:
    result = llmc("inspect", engine, "--executor", "cpu", "--explain")
    lines = result.out.splitlines()
    assert (result.status, lines[0]) == (0, "by cpu:")
    assert lines[1].startswith("one call: ") and "4 paged_attention" in lines[1]
    assert lines[2:] == ["by torch: 1 x reshape (lm_head.logits): it is a view, which costs nothing"]
    said = json.loads(llmc("inspect", engine, "--executor", "cpu", "--explain", "--json").out)["execution"]["cpu"]
    assert [call["linear"] for call in said["calls"]] == [17]
    assert said["by_torch"][0]["ops"] == ["lm_head.logits"]


def test_fusions_are_shown_without_a_gpu(engine: Path) -> None:
    pytest.importorskip("triton", reason="fusions are those of Triton's kernels")
    result = llmc("inspect", engine, "--executor", "cuda", "--explain")
    lines = result.out.splitlines()
    assert (result.status, lines[0]) == (0, "by cuda:")
    assert any(line.startswith("4 x attention (") for line in lines)
    assert any(line.startswith("by torch: ") and line.endswith("no fusion is for such operations") for line in lines)
    assert result.out in llmc("inspect", engine, "--explain").out
    said = json.loads(llmc("inspect", engine, "--explain", "--json").out)["execution"]["cuda"]
    assert {each["name"]: each["count"] for each in said["fused"]}["attention"] == 4
    assert said["captures"] is True


def test_what_has_nothing_to_explain(engine: Path) -> None:
    llmc("inspect", engine, "--explain", "--executor", "torch").failed("so there is nothing to explain", "cuda")
    llmc("inspect", MODELS / "gptj-tiny", "--explain").failed("is no engine", "llmc compile")
    assert "--executor does nothing here: only --explain" in llmc("inspect", engine, "--executor", "cuda").err


def test_explaining_takes_triton(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "find_spec", lambda name: None)
    result = llmc("inspect", engine, "--explain", "--executor", "cuda")
    result.failed("needs the Python package triton", 'pip install "llmc[cuda]"')
    others = llmc("inspect", engine, "--explain")
    assert "the executor cuda is not explained: the executor cuda needs the Python package triton" in others.err
    assert others.out.startswith("by cpu:")
