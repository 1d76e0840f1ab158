"""`llmc new` writes packages that work: they are really installed, found, and pass their tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmc.scaffold import KINDS, new_package
from tests.cli.llmc_command import llmc
from tests.paths import ROOT
from tests.plugins.installing import install_all, on_path


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of each kind."""
    folder = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        assert llmc("new", kind, f"my-{kind}", "-o", folder / kind).status == 0
    return folder


@pytest.fixture(scope="module")
def site(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_all([packages / kind for kind in KINDS], tmp_path_factory.mktemp("site"))


def test_a_package_passes_its_own_tests(packages: Path, site: Path) -> None:
    path = os.pathsep.join((str(site), str(ROOT)))
    options = ("-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", packages)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, options), *(str(packages / kind) for kind in KINDS)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=packages,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "14 passed" in run.stdout


def test_what_it_has_is_found_where_it_is_installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_path(site, monkeypatch):
        for command, name in (("passes", "my-pass"), ("passes", "use-my-op"), ("targets", "my-target")):
            [found] = json.loads(llmc(command, name, "--json").out)
            assert found["plugin"] == f"llmc-{name.removeprefix('use-')}"
        [op] = json.loads(llmc("ops", "my_op", "--json").out)
        assert {part["name"] for part in op["parts"] if part["file"] is None} == {"TensorRT support"}
        llmc("new", "family", "my-family", "-o", "elsewhere").failed("the family 'my_family' exists already")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_in_good_style_and_imports_llmc_alone(packages: Path, kind: str) -> None:
    options = ("--isolated", "--no-cache", "--line-length", "120", ".")
    for command in (("check", "--select", "E,F,I,B,UP,RUF"), ("format", "--check")):
        subprocess.run([sys.executable, "-m", "ruff", *command, *options], cwd=packages / kind, check=True)
    code = "".join(file.read_text() for file in (packages / kind).rglob("*.py"))
    assert [name for name in ("compiler", "runtime") if f"from {name}" in code or f"import {name}" in code] == []


def test_it_says_what_it_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = json.loads(llmc("new", "pass", "soft_cap", "--json").out)
    files = ["pyproject.toml", "README.md", "llmc_soft_cap/__init__.py", "tests/test_soft_cap.py"]
    assert said == {"folder": "soft_cap", "files": files}
    assert {str(file.relative_to("soft_cap")) for file in Path("soft_cap").rglob("*") if file.is_file()} == set(files)
    assert "pip install -e other && pytest other" in llmc("new", "op", "other").out
    assert llmc("new", "pass", "third", "-q").out == ""


@pytest.mark.parametrize(
    ("kind", "name", "message", "hint"),
    [
        ("pass", "fold", "the pass 'fold' exists already", "take another name, such as my-fold"),
        ("op", "layer-norm", "the op 'layer_norm' exists already", "my-layer_norm"),
        ("family", "mpt", "the family 'mpt' exists already", "my-mpt"),
        ("target", "torch", "the target 'torch' exists already", "my-torch"),
        ("pass", "9 lives", "'9 lives' is no name of a pass", "letters, digits and hyphens, such as my-pass"),
        ("op", "lambda", "'lambda' means something else in Python", "my-lambda"),
        ("pass", "full", "full exists already", "name another folder: -o DIR"),
    ],
)
def test_refused(
    kind: str, name: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    llmc("new", kind, name).failed(message, hint)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_nothing_is_left_of_a_package_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    llmc("new", "pass", "mine", "-o", tmp_path / "file" / "mine").failed("cannot write the package to")
    (tmp_path / "empty").mkdir()
    assert new_package("pass", "mine", tmp_path / "empty").folder == tmp_path / "empty"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
