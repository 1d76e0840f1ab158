"""What the scripts in `benchmarks/`, which no test runs, import from the project is there."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))
ROOMS = ("benchmarks", "compiler", "examples", "llmc", "runtime")


def source_of(module: str) -> Path | None:
    """The file of a module; None for a folder without code of its own, or a module that is not there."""
    path = ROOT / module.replace(".", "/")
    found = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return found[0] if found else None


@cache
def names_in(file: Path) -> frozenset[str]:
    """What a module may be asked for: all that is bound anywhere in it, and strings, which lazy modules list."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return frozenset(names)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_what_a_benchmark_imports_is_there(script: Path) -> None:
    missing = []
    for node in ast.walk(ast.parse(script.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.module is None or node.module.split(".")[0] not in ROOMS:
            continue
        file = source_of(node.module)
        known = names_in(file) if file else frozenset()
        missing += [
            f"{node.module}.{each.name}"
            for each in node.names
            if each.name not in known and source_of(f"{node.module}.{each.name}") is None
        ]
    assert missing == []
