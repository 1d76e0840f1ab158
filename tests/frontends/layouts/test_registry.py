"""Layouts of plug-ins, and paths that are no checkpoint."""

from pathlib import Path

import pytest

from compiler.errors import CheckpointError, PluginError
from compiler.frontends import is_checkpoint, open_checkpoint
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.layouts import LAYOUTS, layout
from tests.registrations import forgotten


def test_the_hugging_face_layout_is_asked_last(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with forgotten():
        layout("special", lambda path: (path / "config.json").is_file())(lambda path: Checkpoint(path, {"a": 1}))
        assert open_checkpoint(tmp_path).config == {"a": 1}
    assert open_checkpoint(tmp_path).config == {}


def test_a_layout_can_be_known_once():
    with forgotten(), pytest.raises(CheckpointError, match="the layout 'gpt-neox' is known already"):
        layout("gpt-neox", Path.is_dir)(lambda path: Checkpoint(path, {}))
    assert "gpt-neox" in LAYOUTS


def test_a_fault_of_a_plug_in_is_named_as_such(tmp_path):
    def broken(path: Path) -> bool:
        raise KeyError("size")

    with forgotten():
        layout("broken", broken)(lambda path: Checkpoint(path, {}))
        with pytest.raises(PluginError, match="what tells the layout 'broken'"):
            is_checkpoint(tmp_path)


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "file.bin").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file.bin", tmp_path / "nowhere"):
        assert not is_checkpoint(path)
