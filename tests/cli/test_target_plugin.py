"""A target of somebody else, really installed, is as good as llmc's own: no file of llmc knows of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmc as library
from tests.cli.llmc_command import llmc
from tests.cli.test_ranks import run, texts
from tests.paths import MODELS, ROOT
from tests.plugins.installing import install, on_path

PACKAGE = ROOT / "examples" / "plugins"
MODEL = MODELS / "mpt-tiny"
LIMITS = ("--dtype", "float32", "--max-batch", 2, "--max-seq", 32)
PROMPT = ("--prompt-ids", "72,300,5,41", "--max-new-tokens", 6, "--ignore-eos", "--json")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(PACKAGE, tmp_path_factory.mktemp("target"))


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with on_path(site, monkeypatch):
        yield


def ok(*arguments: object) -> str:
    result = llmc(*arguments)
    assert result.status == 0, result.err
    return result.out


def tokens(engine: Path, *options: object) -> object:
    return json.loads(ok("run", engine, *PROMPT, *options))["token_ids"]


@pytest.mark.parametrize("passes", ["", "quant=int8,kv=int8"])
def test_a_target_compiles_runs_verifies_and_inspects(installed: None, tmp_path: Path, passes: str) -> None:
    engine = tmp_path / "engine"
    target = ("--target", "portable:author=me", "--passes", passes)
    dry = json.loads(ok("compile", MODEL, "-o", engine, *LIMITS, *target, "--dry-run", "--json"))
    assert (dry["targets"], dry["plans"]) == (["torch", "portable"], {"portable": ["card"]})
    made = json.loads(ok("compile", MODEL, "-o", engine, *LIMITS, *target, "--json"))
    assert made["manifest"]["targets"]["portable"]["ranks"][0]["card"] == "rank0.card.json"
    assert [used["targets"] for used in made["manifest"]["plugins"]] == [["portable"]]
    assert sum(file.stat().st_size for file in engine.iterdir()) <= dry["needed_bytes"]

    assert library.load(engine).executor.name == "portable"  # without being asked for
    assert tokens(engine) == tokens(engine, "--executor", "torch") == tokens(engine, "--executor", "portable")
    assert library.verify(engine).executor == "portable"
    assert json.loads(ok("verify", engine, "--against", MODEL, *PROMPT[:4], "--json", "--tolerance", 0.2))["holds"]
    assert json.loads(ok("inspect", engine, "--json"))["portable"]["author"] == "me"
    assert "ops, signed by me" in ok("inspect", engine)
    assert "llmc-example 1.0 (targets portable)" in ok("inspect", engine)
    assert json.loads(ok("eval", "ppl", MODEL, "--text", MODEL / "config.json", "--executor", "portable", "--json"))


def test_it_is_listed_and_refused_as_the_others_are(installed: None, tmp_path: Path) -> None:
    assert "author" in ok("targets", "portable")
    assert json.loads(ok("targets", "portable", "--json"))[0]["plugin"] == "llmc-example"
    compiling = ("compile", MODEL, "-o", tmp_path / "engine", *LIMITS)
    llmc(*compiling, "--target", "portable:autor=me").failed("has no option 'autor'; did you mean 'author'?", "author=")
    llmc(*compiling, "--target", "portabel").failed("no target 'portabel'; did you mean 'portable'?", "portable")
    llmc(*compiling, "--target", "portable:without=attention", "--passes", "fuse-attention").failed("is not portable")
    assert not list(tmp_path.iterdir())
    noted = llmc(*compiling, "--target", "portable", "--workers", 2).err
    assert "--workers does nothing here: the engine is built for torch and portable only" in noted


def test_ranks_run_it_under_mpirun(installed: None, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    ok("compile", MODEL, "-o", engine, *LIMITS, "--target", "portable", "--passes", "tp=2")
    assert {file.name for file in engine.glob("*.card.json")} == {"rank0.card.json", "rank1.card.json"}
    whole = library.compile(MODEL, tmp_path / "whole", target="torch", dtype="float32", max_seq=32).path
    assert texts(run("run", engine, *PROMPT)) == [tokens(whole, "--executor", "interpreter")]


def test_without_the_package_the_engine_still_runs_and_says_what_is_missing(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "engine"
    with monkeypatch.context() as patch, on_path(site, patch):
        library.compile(MODEL, engine, target="portable", dtype="float32", max_seq=32)
    result = llmc("run", engine, *PROMPT, "--device", "cpu")
    assert result.status == 0, result.err
    said = "was compiled for the target portable of the package llmc-example 1.0, which is not there; install it: pip"
    assert result.err.count(said) == 1
    assert "portable" not in json.loads(ok("inspect", engine, "--json"))
    llmc("run", engine, *PROMPT, "--executor", "portable").failed("there is no executor 'portable'")
    shutil.rmtree(engine)
