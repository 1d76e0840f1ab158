"""Which plug-ins an engine needs, and whether they are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.errors import EngineError
from compiler.plugins import Plugin, load_file
from runtime.engine_dir.used_plugins import UsedPlugin, plugin_notes, plugins_found, require_plugins
from tests.registrations import forgotten

OP = '''
from compiler.ir.op import op
from compiler.ir.types import TensorType


@op
def of_a_plugin(x: TensorType) -> TensorType:
    """Itself."""
    return x
'''
ENGINE = Path("my.engine")
PACKAGE = Plugin("my-package", version="1.2")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A plug-in that is loaded."""
    path = tmp_path / "ops.py"
    path.write_text(OP)
    with forgotten():
        load_file(path)
        yield path


@pytest.mark.parametrize(
    ("plugin", "message", "hint"),
    [
        (
            PACKAGE,
            "my.engine needs the op 'nowhere', for which it was compiled with the package my-package 1.2",
            "install it: pip install my-package==1.2",
        ),
        (
            Plugin("ops.py", sha256="ab" * 32),
            "my.engine needs the op 'nowhere', for which it was compiled with the file ops.py (sha256 abababababab)",
            "give the file: --plugin ops.py (in Python: plugins=[...])",
        ),
        (
            Plugin("__main__"),
            "my.engine needs the op 'nowhere', for which it was compiled with code that was typed in (__main__)",
            "put it into a file, and compile again with --plugin FILE.py",
        ),
    ],
)
@pytest.mark.parametrize("use", ["ops", "rules"])
def test_an_op_that_is_not_there(plugin: Plugin, message: str, hint: str, use: str) -> None:
    with pytest.raises(EngineError) as caught:
        require_plugins(ENGINE, [UsedPlugin(plugin, **{use: ("nowhere",)})])
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_passes_and_families_are_not_needed_where_an_engine_runs() -> None:
    require_plugins(ENGINE, [UsedPlugin(PACKAGE, passes=("p",), families=("f",))])


def test_the_plugin_that_was_compiled_with(file: Path) -> None:
    used = [UsedPlugin(Plugin.of_file(file), ops=("of_a_plugin",), rules=("add",))]
    require_plugins(ENGINE, used)
    assert plugin_notes(ENGINE, used) == []


def test_another_plugin_of_the_same_op_is_noted(file: Path) -> None:
    [note] = plugin_notes(ENGINE, [UsedPlugin(PACKAGE, ops=("of_a_plugin",))])
    assert note == (
        f"my.engine was compiled with the package my-package 1.2; its ops are those of {Plugin.of_file(file)} now"
    )


def test_an_op_that_llmc_has_by_now_is_noted() -> None:
    [note] = plugin_notes(ENGINE, [UsedPlugin(PACKAGE, ops=("relu",))])
    assert note.endswith("its ops are those of llmc itself now")


def test_ranks_tell_plugins_apart_by_content(file: Path, tmp_path: Path) -> None:
    """Where a file lies makes no difference."""
    used = [UsedPlugin(PACKAGE, ops=("of_a_plugin",))]
    found = [plugins_found(used)]
    for folder, text in (("same", OP), ("other", f"{OP}\n# changed\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ops.py").write_text(text)
        with forgotten():
            from compiler.ir.op import OPS

            OPS.restore("of_a_plugin", None)
            load_file(tmp_path / folder / "ops.py")
            found.append(plugins_found(used))
    assert found[0] == found[1] != found[2]
