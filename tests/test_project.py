"""The project's own files agree with each other."""

import re
import subprocess
import tomllib
from itertools import chain

import pytest
from packaging.requirements import Requirement

import llmc
from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Written in parts: this file, too, is searched for them.
REGISTRY_HOSTS = [f"{name}.org" for name in ("pypi", "pythonhosted", "download.pytorch")]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(normalized(line).split("==") for line in lines if not line.startswith("#"))


def normalized(name: str) -> str:
    return name.lower().replace("_", "-")


def test_version_is_the_packages_own() -> None:
    assert PROJECT["version"] == llmc.__version__


def test_every_pin_satisfies_the_declared_range() -> None:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    pinned = pins()
    for requirement in map(Requirement, chain.from_iterable(groups)):
        if requirement.name != PROJECT["name"]:
            assert pinned[normalized(requirement.name)] in requirement.specifier, requirement


def test_readme_names_only_targets_that_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`|\$ )make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(named) <= set(targets)


def test_no_file_names_a_package_registry() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, files.stdout.split("\0")):
        text = (ROOT / name).read_bytes().decode(errors="replace")
        assert not [host for host in REGISTRY_HOSTS if host in text], name
