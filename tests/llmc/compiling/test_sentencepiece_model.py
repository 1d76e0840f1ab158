"""SentencePiece models are converted to what sentencepiece itself makes of texts."""

import json
from pathlib import Path

import pytest

from llmc.compiling import sentencepiece_model
from llmc.compiling.tokenizer_export import write_tokenizer
from runtime.engine_dir.manifest import NoTokenizer
from runtime.generation.tokenizer import Tokenizer
from tests.llmc.compiling.sentencepiece_files import BPE, CHARACTERS, UNIGRAM, sentencepiece_bytes
from tests.paths import MODELS

pytestmark = pytest.mark.skipif(bool(sentencepiece_model.missing_packages()), reason="needs the extra sentencepiece")

TEXTS = ["the list", "  the   list ", "thesthe list", "é 日本🙂 the", "", " ", "a\nlist"]


@pytest.mark.parametrize("kind", [UNIGRAM, BPE])
@pytest.mark.parametrize("byte_fallback", [False, True])
@pytest.mark.parametrize("dummy_prefix", [False, True])
@pytest.mark.parametrize("remove_extra_whitespaces", [False, True])
def test_ids_are_those_of_sentencepiece(
    tmp_path: Path, kind: int, byte_fallback: bool, dummy_prefix: bool, remove_extra_whitespaces: bool
) -> None:
    path = tmp_path / "spiece.model"
    path.write_bytes(
        sentencepiece_bytes(
            kind=kind,
            byte_fallback=byte_fallback,
            dummy_prefix=dummy_prefix,
            remove_extra_whitespaces=remove_extra_whitespaces,
        )
    )
    converted = sentencepiece_model.convert(path)
    assert [converted.encode(text).ids for text in TEXTS] == sentencepiece_model.own_ids(path, TEXTS)
    for text in TEXTS[:1]:
        assert converted.decode(converted.encode(text).ids) == text


def test_a_class_that_is_code_of_the_checkpoints_is_not_run(tmp_path: Path) -> None:
    """As that of Replit-code: the model is converted, and a note says what the class might put around a text."""
    (tmp_path / "out").mkdir()
    (tmp_path / "spiece.model").write_bytes(sentencepiece_bytes())
    settings = {"auto_map": {"AutoTokenizer": ["replit_lm_tokenizer.ReplitLMTokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    notes: list[str] = []
    assert write_tokenizer(tmp_path, tmp_path / "out", notes.append) == "tokenizer.json"
    ids = Tokenizer(tmp_path / "out" / "tokenizer.json").encode(TEXTS[0])
    assert [list(ids)] == sentencepiece_model.own_ids(tmp_path / "spiece.model", TEXTS[:1])
    assert len(notes) == 1
    assert "Python code of the checkpoint's, which llmc does not run" in notes[0]


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "spiece.model"
    for data, reason in (
        (b"no model", "no SentencePiece model"),
        (b"", "no SentencePiece model"),
        (sentencepiece_bytes(kind=CHARACTERS), "of words or characters"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=reason):
            sentencepiece_model.convert(path)


@pytest.mark.parametrize(
    ("settings", "before", "after"),
    [
        ({"tokenizer_class": "T5Tokenizer"}, [], [2]),
        ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, [1], []),
        ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True}, [1], [2]),
        ({}, [], []),
    ],
)
@pytest.mark.parametrize("file", ["spiece.model", "tokenizer.model"])
def test_tokens_around_a_text_are_those_of_the_class(
    tmp_path: Path, file: str, settings: dict[str, object], before: list[int], after: list[int]
) -> None:
    source, folder = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    folder.mkdir()
    (source / "config.json").write_bytes((MODELS / "gptneox-tiny" / "config.json").read_bytes())
    (source / file).write_bytes(sentencepiece_bytes())
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    assert write_tokenizer(source, folder) == "tokenizer.json"
    found = Tokenizer(folder / "tokenizer.json")
    [own] = sentencepiece_model.own_ids(source / file, ["the list é"])
    assert found.encode("the list é") == [*before, *own, *after]
    assert found.encode("the list é", add_special_tokens=False) == own
    assert found.continuation([3], [4]) == ("the", " list")


def test_added_tokens_keep_their_ids_or_are_refused(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    folder.mkdir()
    (source / "config.json").write_bytes((MODELS / "gptneox-tiny" / "config.json").read_bytes())
    (source / "spiece.model").write_bytes(sentencepiece_bytes())
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    (source / "added_tokens.json").write_text('{"<sep>": 18}')
    assert write_tokenizer(source, folder) == "tokenizer.json"
    assert Tokenizer(folder / "tokenizer.json").encode("<sep>", add_special_tokens=False) == [18]
    (source / "added_tokens.json").write_text('{"<sep>": 20}')
    found = write_tokenizer(source, folder)
    assert isinstance(found, NoTokenizer)
    assert "the added token '<sep>' has another id" in found.reason
