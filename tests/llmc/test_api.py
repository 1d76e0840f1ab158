"""The public API: every name is documented, typed, and listed on its page."""

from __future__ import annotations

import ast
import inspect
import re
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import llmc
import llmc.families
import llmc.targets
from tests.paths import DOCS, ROOT
from tools.api_page import COMMAND, SECTIONS, TARGET, page

MODULES = (llmc, llmc.families, llmc.targets)
NAMES = [(module, name) for module in MODULES for name in module.__all__ if name not in ("__version__", *llmc._MODULES)]
PLUGINS = [*(ROOT / "llmc" / "scaffold" / "templates").glob("*.txt"), *(ROOT / "examples" / "plugins").rglob("*.py")]


def test_the_page_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == page(), f"{TARGET.name} is out of date; renew it: {COMMAND}"


def test_every_public_name_is_on_the_page_once() -> None:
    listed = [(section.module, name) for section in SECTIONS for name in section.names.split()]
    errors = {(llmc.targets, name) for name in llmc.targets.__all__ if name.endswith("Error")}
    assert len(listed) == len(set(listed))
    assert set(NAMES) - errors == set(listed)


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda value: getattr(value, "__name__", value))
def test_a_public_name_has_a_docstring_and_annotations(module: ModuleType, name: str) -> None:
    thing = getattr(module, name)
    if name not in ("ACTIVATIONS", "Activation", "Report"):  # a table and types of functions
        assert inspect.getdoc(thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing))
    for function in _functions(thing):
        signature = inspect.signature(function)
        missing = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
        ]
        assert missing == [], function
        assert signature.return_annotation is not signature.empty, function


def _functions(thing: Any) -> list[Any]:
    """A function, or the public methods of a class that it defines itself."""
    if inspect.isfunction(thing):
        return [thing]
    cls = thing if inspect.isclass(thing) else type(thing)
    if not cls.__module__.startswith(("llmc", "compiler", "runtime")) or issubclass(cls, Enum):
        return []
    members = [getattr(member, "__func__", member) for name, member in vars(cls).items() if not name.startswith("_")]
    return [member for member in members if inspect.isfunction(member)]


def test_type_checkers_see_what_is_imported_at_the_first_use() -> None:
    tree = ast.parse(Path(str(llmc.__file__)).read_text())
    [guarded] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name: f"{node.module}:{alias.name}" if alias.asname else str(node.module)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert [seen.pop(name) for name in llmc._MODULES] == ["llmc", "llmc"]
    assert seen == llmc._HOMES
    assert set(llmc.__all__) == {*seen, *llmc._MODULES, "API_VERSION", "LlmcError", "__version__"}


@pytest.mark.parametrize("path", [DOCS / "cookbook.md", *PLUGINS], ids=lambda path: path.name)
def test_plugins_need_no_import_but_llmc(path: Path) -> None:
    assert re.findall(r"^\s*(?:from|import) (?:compiler|runtime)\b.*", path.read_text(), re.MULTILINE) == []


def test_kinds_of_op_by_name() -> None:
    graph = llmc.parse("graph g\ninput x: f32[4]\n.:\n  %y: f32[4] = relu(%x)\noutput y = %y\n")
    assert [op.kind for op in graph.find(llmc.ops.relu)] == [llmc.ops.relu] == [op.kind for op in graph.find("relu")]
    assert {"relu", "linear"} <= set(dir(llmc.ops)) & set(llmc.ops)
    with pytest.raises(llmc.GraphError, match="there is no op 'rlu'; did you mean 'relu'"):
        _ = llmc.ops.rlu
    assert not hasattr(llmc.ops, "_private")
