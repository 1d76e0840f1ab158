"""`llmc verify` of TensorRT engines of several ranks: real processes, which emulate the plans."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import llmc
from compiler.backend_trt import BuildOptions
from compiler.trt_network.plans import read_plans
from tests.cli.test_ranks import run
from tests.paths import MODELS

pytest.importorskip("mpi4py")
pytest.importorskip("tensorrt_rtx")

PLANS = ["decode-b1-c128", "decode-b2-c128", "prefill-s16-c128"]
QUICK = ("--prompts", 2, "--max-new-tokens", 2, "--no-verify", "--json")


def compiled(place: Path, passes: str) -> Path:
    """An engine of opt-tiny in float32, for at most 2 sequences of 40 tokens."""
    build = BuildOptions(batch_sizes=(1, 2), prompt_sizes=(16,), workers=1)
    model = MODELS / "opt-tiny"
    return llmc.compile(
        model, place, passes=passes, dtype="float32", target="tensorrt-rtx", build=build,
        max_batch=2, max_input=16, max_seq=40,
    ).path  # fmt: skip


def spoiled(engine: Path, rank: int, plan: str, layer: str) -> Path:
    """The engine with another epsilon in a norm of a plan of one rank."""
    listed = read_plans(engine / f"rank{rank}.tensorrt-rtx.plans.json")
    name = next(files.network for files in listed.plans if files.name == plan)
    record = json.loads((engine / name).read_text())
    next(found for found in record["layers"] if found["name"] == layer)["params"]["epsilon"] = 1.0
    (engine / name).write_text(json.dumps(record))
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["files"][name]["bytes"] = (engine / name).stat().st_size
    (engine / "manifest.json").write_text(json.dumps(manifest))
    return engine


def verified(engine: Path, *arguments: Any, status: int = 0) -> dict[str, Any]:
    result = run("verify", engine, *QUICK, *arguments)
    assert result.returncode == status, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def failing(content: dict[str, Any]) -> list[str]:
    """The modes of the runs that are off."""
    return [found["mode"] for found in content["runs"] if found["error"] > found["tolerance"]]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of two ranks that share each layer. Do not change it."""
    return compiled(tmp_path_factory.mktemp("engines") / "tp", "tp=2")


def test_every_plan_is_tried_on_all_ranks(split: Path) -> None:
    content = verified(split)
    assert content["holds"] is True
    assert content["executor"] == "emulator on 2 ranks"
    assert content["reference"] == "the graphs of its ranks, interpreted together"
    assert content["plans"] == PLANS
    assert list(dict.fromkeys(found["mode"] for found in content["runs"])) == ["alone", "batch", *PLANS]
    assert {found["rank"] for found in content["runs"]} == {0}
    assert content["notes"] == []
    assert content["tokens_equal"] + content["ties"] == content["tokens"]


def test_a_plan_that_is_wrong_on_one_rank_only_is_found(split: Path, tmp_path: Path) -> None:
    """Every rank computes the last norm and the head, but the tokens are chosen from the logits of rank 0."""
    engine = spoiled(Path(shutil.copytree(split, tmp_path / "bad")), 1, "decode-b2-c128", "final_norm.norm")
    content = verified(engine, status=1)
    assert content["holds"] is False
    assert set(failing(content)) <= {"batch", "decode-b2-c128"}
    assert "decode-b2-c128" in failing(content)
    assert {found["rank"] for found in content["runs"] if found["error"] > found["tolerance"]} == {1}
    assert content["divergence"] is None
    assert any("the rank and the operation at which" in note for note in content["notes"])


def test_stages_are_tried_in_lockstep(tmp_path: Path) -> None:
    engine = compiled(tmp_path / "engine", "pp=2")
    spoiled(engine, 1, "prefill-s16-c128", "layers.3.ln1.norm")
    result = run("verify", engine, *QUICK[:-1])
    assert result.returncode == 1, result.stderr
    shown = " ".join(result.stdout.split())
    assert "run by emulator on 2 ranks" in shown
    assert "plans all 3, one by one" in shown
    assert "DOES NOT HOLD" in shown
    assert "prefill-s16-c128" in shown
    assert "note: the rank and the operation at which an engine of several ranks goes wrong are not looked for" in (
        result.stderr
    )
    assert "error: the engine does not compute what the reference says" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tolerance", "0"], "the tolerance is 0.0; it must be a number above 0"),
        (["--plans", "some"], "there are no plans 'some' to verify"),
        (["--against", "no/such/model"], "there is no folder 'no/such/model'"),
    ],
)
def test_what_cannot_be_verified_is_said_before_ranks_start(
    split: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    from tests.cli.llmc_command import llmc as command

    monkeypatch.setattr("llmc.cli.ranks.launch", lambda *_, **__: pytest.fail("ranks are started"))
    command("verify", split, *arguments).failed(message)
