"""The guide's code runs."""

from pathlib import Path

import pytest

from compiler.passes import describe_passes, load_plugin
from tests.passes.guide import GUIDE, guide_code
from tests.registrations import forgotten


def test_the_guides_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the plug-in that it says it is."""
    monkeypatch.chdir(GUIDE.parents[1])
    (tmp_path / "my_passes.py").write_text(guide_code())
    with forgotten():
        load_plugin(tmp_path / "my_passes.py")
        names = {info.name for info in describe_passes()}
        assert {"drop-repeated-relu", "soft-cap", "cut-vocabulary", "skip-scales"} <= names


def test_the_guide_lists_option_types_that_exist() -> None:
    assert all(f"`{name}`" in GUIDE.read_text() for name in ("int", "float", "bool", "str", "Path", "Enum", "Literal"))
