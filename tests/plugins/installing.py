"""Packages with plug-ins, really installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.registrations import forgotten


def install(package: Path, folder: Path) -> Path:
    """Have pip install a package into a folder of its own, offline; returns the folder for Python's path."""
    return install_all([package], folder)


def install_all(packages: Sequence[Path], folder: Path) -> Path:
    """The same for several packages."""
    sources = [
        shutil.copytree(package, folder / "sources" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        for package in packages
    ]
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check", "-q")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "factors")]
    subprocess.run([*command, *map(str, sources)], check=True, capture_output=True, timeout=120)
    return folder / "factors"


@contextmanager
def on_path(factors: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is installed in a folder is on the path of Python, of this process and of those that it starts."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(factors), os.environ.get("PYTHONPATH")))))
    with forgotten():
        monkeypatch.syspath_prepend(str(factors))
        yield
