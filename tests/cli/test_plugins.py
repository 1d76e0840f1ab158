"""Plug-ins in every command: a package that is really installed, and a file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import llmc as library
from compiler.errors import EngineError
from tests.cli.llmc_command import llmc
from tests.paths import MODELS, ROOT
from tests.plugins.installing import install, on_path
from tests.registrations import forgotten

PACKAGE = ROOT / "examples" / "plugins"
MODEL = MODELS / "opt-tiny"
LIMITS = ("--dtype", "float32", "--max-batch", 2, "--max-seq", 32)
PROMPT = ("--prompt-ids", "72,300,5,41", "--max-new-tokens", 6, "--ignore-eos", "--json")
NAME = r"llmc-example 1\.0"


@pytest.fixture(scope="module")
def factors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package."""
    return install(PACKAGE, tmp_path_factory.mktemp("plugin"))


@pytest.fixture
def installed(factors: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package is on the path of Python, of this process and of those that it starts."""
    with on_path(factors, monkeypatch):
        yield factors


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of the package's family; its weights are made up."""
    folder = tmp_path_factory.mktemp("gated")
    config = {"model_type": "gated", "hidden": 16, "heads": 4, "layers": 2, "vocab_size": 1024, "context": 32}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODELS / "opt-tiny" / name, folder)
    return folder


def ok(*arguments: object) -> str:
    result = llmc(*arguments)
    assert result.status == 0, result.err
    return result.out


def token_ids(engine: Path, *options: object) -> list[int]:
    found: list[int] = json.loads(ok("run", engine, *PROMPT, *options))["token_ids"]
    return found


@pytest.mark.parametrize("target", ["torch", "tensorrt-rtx"])
def test_an_installed_package_goes_through_every_command(installed: Path, tmp_path: Path, target: str) -> None:
    engine, dumps, text = tmp_path / "engine", tmp_path / "dumps", tmp_path / "text"
    text.write_text("The function returns a list of names.")
    made = json.loads(
        ok(
            *("compile", MODEL, "-o", engine, *LIMITS, "--passes", "gate=2.0", "--target", target, "--json"),
            *("--dump-ir", dumps, "--batch-sizes", "2", "--prompt-sizes", "32"),
        )
    )
    assert made["manifest"]["plugins"] == [
        {
            "package": "llmc-example",
            "version": "1.0",
            "ops": ["soft_gate"],
            "rules": [],
            "passes": ["gate"],
            "families": [],
            "targets": [],
        }
    ]
    executor = ("--executor", "emulator") if target != "torch" else ()
    meant = token_ids(engine, "--executor", "interpreter")
    assert token_ids(engine, *executor) == meant
    assert meant != token_ids(compiled_without(tmp_path))
    report = json.loads(ok("verify", engine, *PROMPT[:4], *executor, "--plans", "default", "--json"))
    assert report["holds"]
    assert re.search(rf"plug-ins +{NAME} \(ops soft_gate; passes gate\)", ok("inspect", engine))
    assert json.loads(ok("inspect", engine, "--json"))["ops"]["soft_gate"] == 4
    assert "defined in llmc_example.passes" in ok("passes", "gate")
    assert json.loads(ok("passes", "drop-gates", "--json"))[0]["plugin"] == "llmc-example"
    parts = {part["name"]: part["file"] for part in json.loads(ok("ops", "soft_gate", "--json"))[0]["parts"]}
    assert {name for name, file in parts.items() if file is None} == {"TensorRT support"}
    ok("opt", dumps / "02-gate.ir", "--passes", "drop-gates", "-o", tmp_path / "dropped.ir")
    difference = llmc("diff", dumps / "02-gate.ir", tmp_path / "dropped.ir")
    assert difference.status == 1
    assert "soft_gate(%.up, slope=2.0)" in difference.out
    if target == "torch":
        assert json.loads(ok("eval", "ppl", engine, "--text", text, "--json"))["tokens"] > 5


def compiled_without(folder: Path) -> Path:
    ok("compile", MODEL, "-o", folder / "plain", *LIMITS, "-q", "--target", "torch")
    return folder / "plain"


def test_a_family_of_an_installed_package(installed: Path, checkpoint: Path, tmp_path: Path) -> None:
    engine, text = tmp_path / "engine", tmp_path / "text"
    text.write_text("to")
    made = json.loads(ok("compile", checkpoint, "-o", engine, "--dummy-weights", "--dtype", "float32", "--json"))
    [used] = made["manifest"]["plugins"]
    assert (used["families"], used["ops"], used["passes"]) == (["gated"], ["soft_gate"], [])
    assert json.loads(ok("inspect", checkpoint, "--dummy-weights", "--json"))["facts"]["family"] == "gated"
    report = json.loads(ok("verify", engine, "--against", checkpoint, "--prompt-ids", "1,2,3", "--json"))
    assert report["holds"]
    assert json.loads(ok("eval", "ppl", engine, "--text", text, "--json"))["tokens"] == 1


def test_ranks_that_mpirun_starts_have_the_package_too(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    one, two = tmp_path / "one", tmp_path / "two"
    ok("compile", MODEL, "-o", one, *LIMITS, "-q", "--passes", "gate", "--target", "torch")
    ok("compile", MODEL, "-o", two, *LIMITS, "-q", "--passes", "gate,tp=2", "--target", "torch")
    result = in_process("run", two, *PROMPT, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["token_ids"] == token_ids(one)


def in_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI", "PRTE"))}
    command = [sys.executable, "-m", "llmc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)


# Engines, and the plug-ins that they were compiled with


OP = """
import torch
import llmc
from compiler.ir.evaluators.core import evaluates
from compiler.ir.op import op
from compiler.ir.rewrite import sweep
from compiler.ir.types import TensorType
from runtime.executors.torch.lowering import lowers


@op
def of_a_file(x: TensorType) -> TensorType:
    "Its sine."
    return x


@evaluates("of_a_file")
def _compute(attrs, sizes, x):
    return torch.sin(x)


@lowers("of_a_file")
def _lower(state, op):
    return f"torch.sin({state.ref(op.operands[0])})"


@llmc.register_pass("sines")
def sines(graph):
    "Sines for activation functions."
    return sweep(graph, lambda op, b: b.of_a_file(*op.operands) if op.kind.name == "relu" else None, pass_name="sines")
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "sines.py").write_text(OP)
    with forgotten():
        yield tmp_path / "sines.py"


def test_an_engine_of_a_plugin_file_runs_where_the_file_is_given(file: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    with forgotten():
        ok("compile", MODEL, "-o", engine, *LIMITS, "-q", "--plugin", file, "--passes", "sines", "--target", "torch")
    for command in (("run", engine, *PROMPT), ("verify", engine), ("inspect", engine), ("diff", engine, engine)):
        llmc(*command).failed(
            f"{engine} needs the op 'of_a_file', for which it was compiled with the file sines.py (sha256 ",
            "give the file: --plugin sines.py",
        )
    with forgotten():
        assert token_ids(engine, "--plugin", file) == token_ids(engine, "--plugin", file, "--executor", "interpreter")
    with pytest.raises(EngineError, match="needs the op 'of_a_file'"):
        library.load(engine)
    loaded = library.load(engine, plugins=[file], executor="torch")
    assert torch.isfinite(loaded.logits([1, 2, 3])).all()


ALGORITHM = """
from dataclasses import dataclass
from compiler.passes.quant.algorithms.scheme import IntegerScheme
from compiler.passes.quant.linears.rounded import Rounding, quantize_rounded
from compiler.passes.quant.recipe import Recipe, algorithm


@algorithm("int6")
@dataclass(frozen=True)
class Int6(Recipe):
    "Six bits."
    wide: int = 0

    def quantize(self, graph):
        return quantize_rounded(graph, self, Rounding(IntegerScheme(6 + self.wide)))
"""


def test_an_algorithm_of_a_plugin_file_quantizes_without_it_afterwards(tmp_path: Path) -> None:
    file, engine = tmp_path / "six.py", tmp_path / "engine"
    file.write_text(ALGORITHM)
    with forgotten():
        assert "int6" in ok("passes", "quant", "--plugin", file)
        compiling = ("compile", MODEL, "-o", engine, *LIMITS, "--plugin", file, "--target", "torch", "--json")
        made = json.loads(ok(*compiling, "--passes", "quant=int6:wide=1,tp=1"))["manifest"]
    assert "quant=int6:wide=1,tp=1" in made["pipeline"]
    assert [(used["file"], used["passes"]) for used in made["plugins"]] == [("six.py", ["quant=int6"])]
    assert token_ids(engine) == token_ids(engine, "--executor", "interpreter")
    llmc("compile", MODEL, "-o", tmp_path / "x", *LIMITS, "--passes", "quant=int6").failed("not 'int6'")


def test_a_plugin_that_was_changed_is_noted(file: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    with forgotten():
        ok("compile", MODEL, "-o", engine, *LIMITS, "-q", "--plugin", file, "--passes", "sines", "--target", "torch")
    with forgotten():
        assert "note: " not in llmc("run", engine, *PROMPT, "--plugin", file).err
    file.write_text(f"{OP}\n# changed\n")
    result = llmc("run", engine, *PROMPT, "--plugin", file)
    assert result.status == 0
    assert f"note: {engine} was compiled with the file sines.py (sha256 " in result.err
    assert "; its ops are those of the file sines.py (sha256 " in result.err


def test_an_engine_without_ops_of_plugins_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where a package is installed that cannot be imported: that is a note."""
    engine, factors = compiled_without(tmp_path), tmp_path / "factors"
    info = factors / "broken-2.0.dist-info"
    info.mkdir(parents=True)
    (factors / "llmc_test_cli_broken.py").write_text("1 / 0\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[llmc.plugins]\nall = llmc_test_cli_broken\n")
    monkeypatch.syspath_prepend(str(factors))
    result = llmc("run", engine, *PROMPT)
    assert result.status == 0
    assert "note: the package 'broken' cannot be used: its entry point 'all' of llmc.plugins" in result.err
    assert "note: " not in llmc("run", engine, *PROMPT).err
    llmc("compile", MODEL, "-o", tmp_path / "e", "--passes", "of-it").failed(
        "there is no pass 'of-it'", "pip install --upgrade broken"
    )
