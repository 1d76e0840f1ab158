"""Texts to calibrate with."""

import pytest

from compiler.errors import PassError
from compiler.passes.quant.calibration.text import default_texts, read_texts


def test_text_that_comes_with_the_compiler_is_prose_without_its_header():
    (text,) = default_texts()
    assert 30_000 < len(text) < 60_000 and "public domain" not in text and text.count(".") > 500


def test_plain_file_is_one_document(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("One.\n\nTwo.\n")
    assert read_texts(path) == ("One.\n\nTwo.\n",)


def test_lines_of_json_are_texts_or_token_ids(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('"a"\n{"text": "b", "id": 3}\n\n[1, 2]\n{"token_ids": [3]}\n')
    assert read_texts(path) == ("a", "b", (1, 2), (3,))


@pytest.mark.parametrize("line", ['{"body": "a"}', "[1, -2]", "[true]", "7", "{"])
def test_line_that_is_no_document_is_named(tmp_path, line):
    path = tmp_path / "text.jsonl"
    path.write_text(f'"a"\n{line}\n')
    with pytest.raises(PassError, match=r"text\.jsonl, line 2 ") as caught:
        read_texts(path)
    assert "token_ids" in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [(b" \n", "is empty"), (b"\xff\xfe", "not UTF-8")])
def test_useless_file_is_refused(tmp_path, content, message):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(PassError, match=message):
        read_texts(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(PassError, match=r"nowhere\.txt: No such file"):
        read_texts(tmp_path / "nowhere.txt")
