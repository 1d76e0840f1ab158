"""Typing mistakes and mix-ups: each message names what is wrong and the mend, and none is called a bug."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.llmc_command import Result, llmc
from tests.paths import MODELS

MODEL = MODELS / "opt-tiny"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that commands take: do not change what is in it."""
    folder = tmp_path_factory.mktemp("misuse")
    for name in ("engine", "engines/one"):
        (folder / name).parent.mkdir(exist_ok=True)
        result = llmc("compile", MODEL, "-o", folder / name, "--dump-ir", folder / "dumps", "--max-seq", 64, "-q")
        assert result.status == 0, result.err
    shutil.copytree(MODELS / "opt-tiny", folder / "models" / "opt-tiny")
    (folder / "plugs").mkdir()
    (folder / "plugs" / "gelu.py").write_text("import llmc\n")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("The function returns a list.\n")
    return folder


@pytest.fixture
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, which is the current one."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return place


def checked(result: Result) -> str:
    """What a command said that failed as commands should."""
    assert result.status == 2, result.err
    assert "Traceback" not in result.err
    assert "unexpectedly" not in result.err
    return result.err


MISTAKES = [
    # Wrong values.
    ("compile {model} --passes TP=2", "there is no pass 'TP'; did you mean 'tp'?", ""),
    ("compile {model} --passes quant=AWQ", "not 'AWQ'; did you mean 'awq'?", ""),
    ("compile {model} --passes tp=2;quant=awq", "not '2;quant=awq'", "separated by commas"),
    ("compile {model} --dtype fp16", "there is no --dtype 'fp16'; did you mean 'float16'?", ""),
    ("compile {model} --target Torch", "there is no target 'Torch'; did you mean 'torch'?", ""),
    ("compile {model} --profiling-verbosity NAMES", "'NAMES'; did you mean 'names'?", "detailed"),
    ("compile {model} --max-batch 99999999999", "max_batch is 99999999999; it must be at most 2147483647", ""),
    ("compile {model} --calib-seed 99999999999999999999", "must fit into 64 bits", "such as 0"),
    ("run engine --prompt a --device gpu", "there is no device 'gpu'; did you mean 'cpu'?", "cuda:N"),
    ("run engine --prompt a --device mps", "there is no device 'mps'", "cuda:N"),
    ("run engine --prompt a --device meta", "there is no device 'meta'", "cuda:N"),
    ("run engine --prompt a --executor Torch", "there is no executor 'Torch'", "did you mean 'torch'?"),
    ("run engine --prompt a --threads 1000000", "the number of threads is 1000000; this machine has", "--threads"),
    ("verify engine --seed 99999999999999999999", "must fit into 64 bits", "such as 0"),
    ("verify engine --prompts 99999999999999999999", "at most 10000", ""),
    ("verify engine --tolerance inf", "the tolerance is inf; it must be a number above 0", "leave it out"),
    ("verify engine --plans ALL", "there are no plans 'ALL' to verify; did you mean 'all'?", "default"),
    ("eval ppl {model} --text text.txt --executor jax", "there is no executor 'jax'", ""),
    # One thing for another.
    ("compile engine", "engine is an engine, not a checkpoint", "compiled from, opt-tiny; llmc run engine runs"),
    ("compile engine/manifest.json", "engine/manifest.json is a file of an engine", "compiled from, opt-tiny"),
    ("compile dumps", "dumps is a folder of 4 graphs, not a checkpoint", "llmc opt rewrites one"),
    ("compile dumps/00-lift.ir", "dumps/00-lift.ir is a graph, not a checkpoint", "llmc opt"),
    ("compile models", "models has no config.json", "such as models/opt-tiny"),
    ("compile models/opt-tiny/config.json", "is a file of a checkpoint", "give its folder: models/opt-tiny"),
    ("compile text.txt", "text.txt is a file, not a checkpoint", "config.json"),
    ("compile empty", "empty has no config.json", "it is empty"),
    ("compile models/opt-tyni", "did you mean 'models/opt-tiny'?", "models holds: opt-tiny"),
    ("compile ./models/opt", "there is no folder './models/opt'", "models holds: opt-tiny"),
    ("compile no/such/model", "there is no folder 'no/such/model'", "id of the hub"),
    ("compile {model} --plugin plugs", "plugs is a folder, not a Python file", "--plugin plugs/gelu.py"),
    ("compile {model} --plugin empty", "empty is a folder, not a Python file", "no .py files"),
    ("compile {model} --plugin plugs/gleu.py", "no plugin plugs/gleu.py; did you mean 'plugs/gelu.py'?", ""),
    ("compile {model} --calib empty", "cannot read the calibration text empty: it is a folder", "give a file"),
    ("run {model} --prompt a", "is a checkpoint, not an engine", "llmc compile"),
    ("run engin --prompt a", "there is no engine at engin; did you mean 'engine'?", "llmc compile"),
    ("run engines --prompt a", "engines is no engine", "such as engines/one"),
    ("run engine/rank0.ir --prompt a", "engine/rank0.ir is a file, not an engine", "give its folder: engine"),
    ("run engine --prompt-file empty", "cannot read the prompts in empty: it is a folder", "give a file"),
    ("run engine --prompt-file text.text", "No such file or directory; did you mean 'text.txt'?", ""),
    ("verify {model}", "is a checkpoint, not an engine", "llmc compile"),
    ("verify engine --against dumps", "dumps is a folder of 4 graphs, not a checkpoint", "config.json"),
    ("eval ppl text.txt --text engine", "cannot read the text in engine: it is a folder", "give a file"),
    ("inspect models/opt-tiny/model.safetensors", "is a file of a checkpoint, not a graph", "models/opt-tiny"),
    ("inspect engine/rank0.safetensors", "is a file of an engine, not a graph", "give its folder: engine"),
    ("inspect text.txt", "text.txt, line 1: expected 'graph NAME' first", "graphs are .ir files"),
    ("inspect dumps --layers", "dumps has no execution plans", "tensorrt-rtx"),
    ("inspect dumps/09-lift.ir", "No such file or directory; did you mean 'dumps/00-lift.ir'?", ".ir files"),
    ("diff dumps engine", "dumps is a folder of graphs, not one graph", "dumps/00-lift.ir"),
    ("passes TP", "there is no pass 'TP'; did you mean 'tp'?", "llmc passes"),
    # Places.
    ("compile {model} -o engine/inside", "is inside the engine", "-o DIR"),
    ("compile {model} -o text.txt/engine", "cannot make the folder", "-o DIR"),
    ("compile {model} -o new --dump-ir models/opt-tiny", "which is a checkpoint", "--dump-ir"),
    ("compile {model} -o new --dump-ir engine", "which is inside the engine", "--dump-ir"),
    ("compile {model} -o new --dump-ir text.txt/dumps", "text.txt is a file", "--dump-ir"),
    ("opt dumps/00-lift.ir -o no/such/out.ir", "cannot write no/such/out.ir", "mkdir -p no/such"),
    ("opt dumps/00-lift.ir --dump-ir text.txt", "it is a file", "--dump-ir"),
]


@pytest.mark.parametrize(("command", "message", "hint"), MISTAKES, ids=[command for command, _, _ in MISTAKES])
def test_mistakes_are_named_with_their_mend(there: Path, command: str, message: str, hint: str) -> None:
    before = sorted(os.walk(there))
    said = checked(llmc(*command.format(model=MODEL).split(" ")))
    assert message in said
    assert hint in next((line for line in said.splitlines() if line.startswith("hint: ")), "")
    assert sorted(os.walk(there)) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", MODEL, "--max-batch", 2, "--max-batch", 3], "--max-batch is given 2 times: give it once"),
        (["compile", MODEL, "-o", "a", "--output", "b"], "--output is given 2 times"),
        (["opt", "dumps/00-lift.ir", "--passes", "dce", "--passes", "cse"], "--passes is given 2 times"),
        (["compile", ""], "MODEL is empty: give it a value"),
        (["compile", MODEL, "-o", ""], "--output is empty: give it a value, or leave it out"),
        (["compile", MODEL, "--dump-ir", ""], "--dump-ir is empty"),
        (["compile", MODEL, "--plugin", ""], "--plugin is empty"),
        (["run", "engine", "--prompt-file", ""], "--prompt-file is empty"),
        (["verify", "engine", "--against", ""], "--against is empty"),
        (["opt", "dumps/00-lift.ir", "-o", ""], "--output is empty"),
        (["compile", MODEL, "engine"], "'engine' is one argument too many: the engine's folder goes after -o"),
        (["run", "engine", "Once"], "'Once' is one argument too many: prompts go after --prompt"),
        (["verify", "engine", MODEL], "is one argument too many: what to compare with goes after --against"),
        (["eval", "ppl", "engine", "text.txt"], "'text.txt' is one argument too many: the text goes after --text"),
        (["eval", "engine", "--text", "text.txt"], "there is no command 'engine' (there are: ppl, summarize, harness)"),
        (["verfy", "engine"], "there is no command 'verfy'; did you mean 'verify'?"),
    ],
)
def test_wrong_usage_is_named(there: Path, arguments: list[Any], message: str) -> None:
    result = llmc(*arguments)
    assert message in checked(result)
    assert "Usage: llmc" in result.err


def test_what_may_be_repeated_is_taken_each_time(there: Path) -> None:
    arguments = ("--prompt", "a", "--prompt", "b", "--max-new-tokens", 1, "--json", "-q", "--quiet")
    result = llmc("run", "engine", *arguments)
    assert [json.loads(line)["prompt"] for line in result.out.splitlines()] == ["a", "b"]
    assert llmc("opt", "dumps/00-lift.ir", "--passes", "").status == 0


def test_help_is_given_whatever_else_is(there: Path) -> None:
    result = llmc("run", "--help", "a", "b", "--device", "cpu", "--device", "cpu")
    assert result.status == 0
    assert "Extend prompts" in result.out or "extend prompts" in result.out
