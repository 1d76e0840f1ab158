"""`llmc verify`."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

import llmc as api
from tests.cli.llmc_command import llmc
from tests.paths import MODELS

QUICK = ("--prompts", 3, "--max-new-tokens", 4)


def spoilt(engine: Path, copy: Path) -> Path:
    """A copy of an engine in which one weight is wrong."""
    shutil.copytree(engine, copy)
    graph = api.read_graph(engine / "rank0.ir")
    ref: Any = next(op for op in graph.ops if op.name.startswith("layers.2.mlp.up.weight")).attrs["data"]
    data = bytearray((copy / ref.file).read_bytes())
    data[ref.offset : ref.offset + 4] = struct.pack("<f", 50.0)
    (copy / ref.file).write_bytes(data)
    return copy


def test_an_engine_agrees_with_its_own_graph(engine: Path) -> None:
    result = llmc("verify", engine, *QUICK)
    assert result.status == 0, result.err
    assert "its own graph, interpreted" in result.out
    assert "holds: logits differ by up to" in result.out
    assert "24 of 24 tokens equal" in result.out
    assert len([line for line in result.out.splitlines() if line.endswith("  4 of 4")]) == 6


def test_json_holds_every_run(engine: Path) -> None:
    result = llmc("verify", engine, *QUICK, "--json")
    assert (result.status, result.err) == (0, "")
    content = json.loads(result.out)
    assert content["holds"] is True
    assert (content["executor"], content["dtype"], content["divergence"]) == ("cpu", "float32", None)
    assert [(run["prompt"], run["mode"]) for run in content["runs"]] == [
        (number, mode) for mode in ("alone", "batch") for number in (1, 2, 3)
    ]
    assert len({run["prompt_tokens"] for run in content["runs"]}) == 3
    assert 0 < content["error"] < content["tolerance"] < 1e-3
    assert content["error"] == max(run["error"] for run in content["runs"])


def test_an_engine_agrees_with_its_checkpoint_and_no_other(engine: Path) -> None:
    assert llmc("verify", engine, *QUICK, "--against", MODELS / "gptneox-tiny").status == 0
    result = llmc("verify", engine, *QUICK, "--against", MODELS / "mpt-tiny")
    assert result.status == 1
    assert "Traceback" not in result.err
    assert "DOES NOT HOLD" in result.out
    assert "more than rounding" in result.out


def test_engines_are_compared_with_engines(engine: Path, tmp_path: Path) -> None:
    arguments = ("compile", MODELS / "gptneox-tiny", "-o", tmp_path / "other", "--max-seq", 20, "-q")
    assert llmc(*arguments, "--dtype", "bfloat16").status == 0
    content = json.loads(llmc("verify", engine, *QUICK, "--against", tmp_path / "other", "--json").out)
    assert content["holds"] is True
    assert content["dtype"] == "bfloat16"  # the tolerance is that of the coarser of the two
    assert content["error"] > 1e-4
    assert max(run["prompt_tokens"] for run in content["runs"]) <= 20


def test_a_changed_weight_is_found_and_named(engine: Path, tmp_path: Path) -> None:
    bad = spoilt(engine, tmp_path / "bad")
    llmc("verify", bad, *QUICK).failed("rank0.safetensors is damaged or was changed")
    arguments = ("verify", bad, *QUICK, "--no-verify", "--against", MODELS / "gptneox-tiny")
    result = llmc(*arguments)
    assert result.status == 1
    assert "const %layers.2.mlp.up.weight" in result.out
    assert "from gpt_neox.layers.2.mlp" in result.out
    divergence = json.loads(llmc(*arguments, "--json").out)["divergence"]
    assert divergence["op"].startswith("layers.2.mlp.up.weight")
    assert divergence["step"] == 0
    # Its own graph has the same weights.
    assert llmc("verify", bad, *QUICK, "--no-verify").status == 0


def test_a_changed_weight_of_an_engine_with_paged_caches_is_named(tmp_path: Path) -> None:
    options = ("--dtype", "float32", "--max-batch", 3, "--max-seq", 48, "--target", "torch", "-q")
    paged = tmp_path / "paged"
    given = ("compile", MODELS / "gptneox-tiny", "-o", paged, *options, "--passes", "cache=paged:block=16")
    assert llmc(*given).status == 0
    assert llmc("verify", paged, *QUICK, "--against", MODELS / "gptneox-tiny").status == 0
    bad = spoilt(paged, tmp_path / "bad")
    result = llmc("verify", bad, *QUICK, "--no-verify", "--against", MODELS / "gptneox-tiny")
    assert result.status == 1 and "const %layers.2.mlp.up.weight" in result.out


def scale_logits(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Have the executor of CPUs compute wrong."""
    from runtime.executors.cpu.session import CpuPagedSession

    step = CpuPagedSession.step

    def scaled(*arguments):
        return {role: tensor * factor for role, tensor in step(*arguments).items()}

    monkeypatch.setattr(CpuPagedSession, "step", scaled)


def test_an_executor_that_computes_wrong_is_found(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_logits(monkeypatch, 1.01)
    result = llmc("verify", engine, *QUICK)
    assert result.status == 1
    assert "24 of 24 tokens equal" in result.out
    assert "note: the cpu executor runs the whole graph as one program" in result.err
    content = json.loads(llmc("verify", engine, *QUICK, "--json", "--tolerance", 0.02).out)
    assert content["holds"] is True
    assert content["error"] == pytest.approx(0.01, rel=0.01)


def test_logits_that_are_no_numbers_fail(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_logits(monkeypatch, float("nan"))
    result = llmc("verify", engine, *QUICK, "--json")
    assert result.status == 1
    assert json.loads(result.out)["error"] is None


def test_prompts_can_be_given(engine: Path) -> None:
    arguments = ("verify", engine, "--prompt", "The function", "--prompt-ids", "1,2,3", "--max-new-tokens", 2, "--json")
    runs = json.loads(llmc(*arguments).out)["runs"]
    assert [run["mode"] for run in runs] == ["alone", "alone", "batch", "batch"]
    assert runs[1]["prompt_tokens"] == 3
    [completion] = api.load(engine).generate("The function", max_new_tokens=2)
    assert runs[0]["token_ids"] == runs[2]["token_ids"] == completion.token_ids


def test_the_seed_decides_the_prompts(engine: Path) -> None:
    def tokens(seed: int) -> list[Any]:
        content = json.loads(llmc("verify", engine, *QUICK, "--json", "--seed", seed).out)
        return [run["token_ids"] for run in content["runs"]]

    assert tokens(1) == tokens(1) != tokens(2)


def test_quiet_says_it_by_the_status(engine: Path) -> None:
    assert llmc("verify", engine, *QUICK, "--quiet") == (0, "", "")


def test_the_library_does_what_the_command_does(engine: Path) -> None:
    result = api.verify(engine, random=3, max_new_tokens=4)
    assert isinstance(result, api.Verification)
    assert result.holds
    assert result.to_json() == json.loads(llmc("verify", engine, *QUICK, "--json").out)


def test_one_sequence_at_a_time_has_no_batch(tmp_path: Path) -> None:
    arguments = ("compile", MODELS / "opt-tiny", "-o", tmp_path / "engine", "--max-batch", 1, "--max-seq", 8, "-q")
    assert llmc(*arguments).status == 0
    content = json.loads(llmc("verify", tmp_path / "engine", "--prompts", 2, "--json").out)
    assert {run["mode"] for run in content["runs"]} == {"alone"}
    assert all(run["prompt_tokens"] + len(run["token_ids"]) <= 8 for run in content["runs"])
    assert any("gets at most" in note for note in content["notes"])


def test_dummy_weights_are_made_up_again(tmp_path: Path) -> None:
    arguments = ("compile", MODELS / "opt-tiny", "-o", tmp_path / "engine", "--dummy-weights", "-q")
    assert llmc(*arguments).status == 0
    content = json.loads(llmc("verify", tmp_path / "engine", *QUICK, "--json", "--against", MODELS / "opt-tiny").out)
    assert content["holds"] is True
    assert "with dummy weights" in content["reference"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--prompts", 0], "the number of prompts is 0", None),
        (["--max-new-tokens", 0], "the number of new tokens is 0", None),
        (["--tolerance", 0], "the tolerance is 0", None),
        (["--executor", "jax"], "there is no executor 'jax'", None),
        (["--prompt-ids", "5000"], "prompt 1 holds the token id 5000", None),
        (["--against", "missing/model/x"], "there is no folder", None),
    ],
)
def test_bad_requests(engine: Path, arguments: list[Any], message: str, hint: str | None) -> None:
    llmc("verify", engine, *arguments, "--json").failed(message, hint)


def test_a_checkpoint_is_no_engine() -> None:
    llmc("verify", MODELS / "opt-tiny").failed("is a checkpoint, not an engine", "llmc compile")


def test_another_vocabulary_cannot_be_compared(engine: Path, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "vocab_size": 512}))
    other = checkpoint.parent / "other"
    assert llmc("compile", checkpoint, "-o", other, "--dummy-weights", "-q").status == 0
    result = llmc("verify", engine, "--against", other, "-q")
    result.failed("has a vocabulary of 1024 tokens and", "the checkpoint that it was compiled from")


def test_prompts_can_do_without_the_tokens_around_them(metaspace_engine: Path) -> None:
    arguments = ("verify", metaspace_engine, "--prompt", "the list", "--max-new-tokens", 2, "--json")
    for flags, count in (((), 3), (("--no-special-tokens",), 2)):
        [run] = json.loads(llmc(*arguments, *flags).out)["runs"]
        assert run["prompt_tokens"] == count
