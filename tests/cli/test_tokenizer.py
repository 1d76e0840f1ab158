"""The engine's tokenizer is the checkpoint's, as transformers reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmc.tokenizer import write_tokenizer
from runtime.tokenizer import Tokenizer
from tests.cli.llmc_command import EXAMPLES

TEXTS = [
    "Hello world",
    " leading",
    "two  spaces\n\n\ttab",
    "naïve 日本 🙂",
    "<|endoftext|>x",
    "</s> a",
    "\r\n",
    "a" * 3000,
]


def converted(source: Path, folder: Path) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    notes: list[str] = []
    name = write_tokenizer(source, folder, notes.append)
    assert name is not None, notes
    return Tokenizer(folder / name)


def assert_same(original: Any, found: Tokenizer, text: str) -> None:
    ids = original(text)["input_ids"]
    assert found.encode(text) == ids
    assert found.decode(ids) == original.decode(ids, skip_special_tokens=True)
    assert found.decode(ids, special=True) == original.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("model", ["gptneox-tiny", "gptj-tiny", "mpt-tiny", "opt-tiny"])
def test_the_examples(model: str, tmp_path: Path) -> None:
    original, found = AutoTokenizer.from_pretrained(EXAMPLES / model), converted(EXAMPLES / model, tmp_path / "out")
    for text in TEXTS:
        assert_same(original, found, text)


def test_any_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    original = AutoTokenizer.from_pretrained(EXAMPLES / "mpt-tiny")
    found = converted(EXAMPLES / "mpt-tiny", tmp_path_factory.mktemp("out"))

    @settings(max_examples=100)
    @given(st.text(max_size=60))
    def check(text: str) -> None:
        assert_same(original, found, text)

    check()


def old_style(folder: Path) -> Path:
    """A tokenizer as OPT's checkpoints have it: a vocabulary, merges, and a start token in front of every text."""
    model = json.loads((EXAMPLES / "opt-tiny" / "tokenizer.json").read_text())["model"]
    folder.mkdir()
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "config.json").write_bytes((EXAMPLES / "opt-tiny" / "config.json").read_bytes())
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    settings_ = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    return folder


def test_a_vocabulary_and_merges_with_a_start_token(tmp_path: Path) -> None:
    source = old_style(tmp_path / "source")
    original, found = AutoTokenizer.from_pretrained(source), converted(source, tmp_path / "out")
    for text in TEXTS:
        assert_same(original, found, text)
    start = original.bos_token_id
    assert found.encode("Hello")[0] == start
    assert found.encode("Hello")[1:] != []


def test_truncation_left_by_a_training_script_does_not_count(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in (EXAMPLES / "gptneox-tiny").glob("*.json"):
        (source / path.name).write_bytes(path.read_bytes())
    content = json.loads((source / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (source / "tokenizer.json").write_text(json.dumps(content))
    assert len(converted(source, tmp_path / "out").encode("one two three four five six seven eight")) > 4


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "has no tokenizer"),
        ({"tokenizer.json": "{"}, "cannot be loaded"),
        (
            {"vocab.json": "{}", "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}'},
            "--prompt-ids",
        ),
    ],
)
def test_a_tokenizer_that_cannot_be_had_is_noted(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    source, folder = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    folder.mkdir()
    for name, text in files.items():
        (source / name).write_text(text)
    notes: list[str] = []
    assert write_tokenizer(source, folder, notes.append) is None
    assert reason in notes[0]
    assert "--prompt-ids" in notes[0]
    assert not list(folder.iterdir())
