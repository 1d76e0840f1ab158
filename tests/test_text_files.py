"""Text that users write, from whatever editor."""

import json
from pathlib import Path
from typing import Any

import pytest

import llmc as api
from compiler.errors import RequestError
from compiler.frontends.json_file import read_object
from compiler.passes.quant.calibration.text import read_texts
from compiler.text_files import decode_text, read_text
from llmc.cli.prompts import gather_prompts
from tests.paths import MODELS

BOM = b"\xef\xbb\xbf"


def windows(text: str) -> bytes:
    """The text as an editor on Windows saves it."""
    return BOM + text.replace("\n", "\r\n").encode()


def test_what_a_windows_editor_adds_is_no_text() -> None:
    found = decode_text(windows("one\ntwo\r\n"), "x", RequestError)
    assert (found.text, found.marked) == ("one\ntwo\r\n", True)
    plain = decode_text(b"one\rtwo\xef\xbb\xbf\n", "x", RequestError)
    assert plain.text == "one\rtwo\ufeff\n"  # only pairs are line ends, and only a first mark is a mark
    assert plain.note("x") is None
    note = decode_text(windows("a\nb\n"), "x", RequestError).note("x")
    assert note == (
        "x: the byte order mark at its beginning is left out, and 2 line ends of carriage return and line feed count "
        "as line feeds"
    )


def graph(path: Path) -> Any:
    return api.read_graph(path).name


READERS = {
    "prompts.txt": ("one\ntwo\n", lambda path: gather_prompts([], [str(path)], [])),
    "prompts.json": ('["one",\n"two"]', lambda path: gather_prompts([], [str(path)], [])),
    "prompts.jsonl": ('"one"\n{"prompt": "two"}\n', lambda path: gather_prompts([], [str(path)], [])),
    "calib.txt": ("some\ntext\n", read_texts),
    "calib.jsonl": ('"some"\n{"text": "more\u2028"}\n', read_texts),
    "config.json": ('{\n"model_type": "opt"}', read_object),
    "step.ir": ("graph g\ninput x: f32[2]\n\noutput y = %x\n", graph),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_takes_a_mark_and_carriage_returns(tmp_path: Path, name: str) -> None:
    text, read = READERS[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    expected = read(path)
    path.write_bytes(windows(text))
    assert read(path) == expected


def test_an_index_of_shards_may_have_a_mark(tmp_path: Path) -> None:
    source = MODELS / "gptneox-tiny"
    (tmp_path / "config.json").write_bytes(windows((source / "config.json").read_text()))
    (tmp_path / "all.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    index = {"weight_map": {"gpt_neox.embed_in.weight": "all.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_bytes(windows(json.dumps(index, indent=1)))
    assert api.lift(tmp_path).facts == api.lift(source).facts


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"caf\xe9", "x.txt is not UTF-8 text (unexpected end of data at byte 3)", "save it as UTF-8"),
        ("café".encode("utf-16"), "is not UTF-8 text", "it looks like UTF-16: save it as UTF-8"),
        (None, "cannot read the text in", "give a file"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes | None, message: str, hint: str) -> None:
    path = tmp_path / "x.txt"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(RequestError) as error:
        read_text(path, RequestError, what="the text in")
    assert message in error.value.message
    assert error.value.hint == hint


def test_a_missing_file_has_near_ones(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").touch()
    with pytest.raises(
        RequestError, match=r"cannot read .*prompt\.txt: No such file or directory; did you mean '.*prompts"
    ):
        read_text(tmp_path / "prompt.txt", RequestError)
