"""The engine's tokenizer is the checkpoint's, as transformers reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmc.compiling import sentencepiece_model
from llmc.compiling.tokenizer_export import write_tokenizer
from runtime.engine_dir.manifest import NoTokenizer, read_manifest
from runtime.generation.chat import apply_chat_template
from runtime.generation.tokenizer import Tokenizer
from tests.cli.llmc_command import llmc
from tests.llmc.compiling.sentencepiece_files import sentencepiece_bytes
from tests.paths import MODELS
from tests.runtime.generation import small_tokenizers as small

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
    assert isinstance(name, str), name
    assert notes == []
    return Tokenizer(folder / name)


def assert_same(original: Any, found: Tokenizer, text: str) -> None:
    ids = original(text)["input_ids"]
    assert found.encode(text) == ids
    assert found.decode(ids) == original.decode(ids, skip_special_tokens=True)
    assert found.decode(ids, special=True) == original.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("model", ["gptneox-tiny", "gptj-tiny", "mpt-tiny", "opt-tiny"])
def test_the_examples(model: str, tmp_path: Path) -> None:
    original, found = AutoTokenizer.from_pretrained(MODELS / model), converted(MODELS / model, tmp_path / "out")
    for text in TEXTS:
        assert_same(original, found, text)


def test_any_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    original = AutoTokenizer.from_pretrained(MODELS / "mpt-tiny")
    found = converted(MODELS / "mpt-tiny", tmp_path_factory.mktemp("out"))

    @settings(max_examples=100)
    @given(st.text(max_size=60))
    def check(text: str) -> None:
        assert_same(original, found, text)

    check()


def old_style(folder: Path) -> Path:
    """A tokenizer as OPT's checkpoints have it: a vocabulary, merges, and a start token in front of every text."""
    model = json.loads((MODELS / "opt-tiny" / "tokenizer.json").read_text())["model"]
    folder.mkdir()
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "config.json").write_bytes((MODELS / "opt-tiny" / "config.json").read_bytes())
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


def test_the_chat_template_of_the_checkpoint_is_the_engines(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text("{{ eos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    result = llmc("compile", checkpoint, "-o", tmp_path / "engine", "-q")
    assert result.status == 0, result.err
    messages = [{"role": "user", "content": "Hello"}]
    expected = AutoTokenizer.from_pretrained(checkpoint).apply_chat_template(messages, tokenize=False)
    assert apply_chat_template(tmp_path / "engine", messages) == expected
    assert "chat_template.jinja" in read_manifest(tmp_path / "engine").files


def test_truncation_left_by_a_training_script_does_not_count(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in (MODELS / "gptneox-tiny").glob("*.json"):
        (source / path.name).write_bytes(path.read_bytes())
    content = json.loads((source / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (source / "tokenizer.json").write_text(json.dumps(content))
    assert len(converted(source, tmp_path / "out").encode("one two three four five six seven eight")) > 4


def copy_of(name: str, folder: Path, **files: str | bytes) -> Path:
    """A checkpoint's config beside other files of a tokenizer; dots in their names are spelt `__`."""
    folder.mkdir()
    (folder / "config.json").write_bytes((MODELS / name / "config.json").read_bytes())
    for file, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / file.replace("__", ".")).write_bytes(data)
    return folder


VOCABULARY = json.dumps(json.loads((MODELS / "opt-tiny" / "tokenizer.json").read_text())["model"]["vocab"])
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.mark.parametrize(
    ("files", "reason", "mend"),
    [
        ({}, "its checkpoint had none", "tokenizer.json"),
        ({"tokenizer__json": "{"}, "tokenizer.json is no JSON", "download"),
        ({"tokenizer__json": '{"model": 1}'}, "of transformers cannot load tokenizer.json (", "tokenizer.json"),
        ({"tokenizer__json": POINTER}, "tokenizer.json is a Git LFS pointer, not the file itself", "git lfs pull"),
        ({"spiece__model": POINTER}, "spiece.model is a Git LFS pointer", "git lfs pull"),
        ({"vocab__json": VOCABULARY, "merges__txt": POINTER}, "merges.txt is a Git LFS pointer", "git lfs pull"),
        ({"vocab__json": VOCABULARY}, "merges.txt, which says how texts become tokens, is missing", "merges.txt"),
        # transformers makes an empty tokenizer of each of these, or one of a few tokens of its own
        (
            {
                "vocab__json": VOCABULARY,
                "merges__txt": "",
                "tokenizer_config__json": '{"tokenizer_class": "BertTokenizer"}',
            },
            "BertTokenizer of transformers makes one up that has not the tokens of vocab.json",
            "tokenizer.json",
        ),
        ({"vocab__txt": "[UNK]\nthe\n"}, "GPTNeoXTokenizer of transformers makes one up", "tokenizer.json"),
        (
            {"vocab__json": "{}", "tokenizer_config__json": '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}'},
            "Python code of the checkpoint's, which llmc does not run",
            "tokenizer.json",
        ),
        (
            {"vocab__txt": "a\n", "tokenizer_config__json": '{"tokenizer_class": "BertJapaneseTokenizer"}'},
            "BertJapaneseTokenizer of transformers",
            "tokenizer.json",
        ),
    ],
)
def test_a_tokenizer_that_cannot_be_had_says_why(tmp_path: Path, files: dict[str, str], reason: str, mend: str) -> None:
    (tmp_path / "out").mkdir()
    found = write_tokenizer(copy_of("gptneox-tiny", tmp_path / "source", **files), tmp_path / "out")
    assert isinstance(found, NoTokenizer)
    assert reason in found.reason
    assert mend in found.mend
    assert "compile again" in found.mend
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("missing", [("sentencepiece", "protobuf"), ("sentencepiece",), ("protobuf",)])
def test_packages_that_a_sentencepiece_model_takes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sentencepiece_model, "missing_packages", lambda: missing)
    (tmp_path / "out").mkdir()
    for file in ("spiece__model", "tokenizer__model"):
        source = copy_of("gptneox-tiny", tmp_path / file, **{file: sentencepiece_bytes()})
        found = write_tokenizer(source, tmp_path / "out")
        assert isinstance(found, NoTokenizer)
        assert file.replace("__", ".") in found.reason
        assert f"takes {' and '.join(missing)}, which {'was' if len(missing) == 1 else 'were'} not inst" in found.reason
        assert found.mend == 'pip install "llmc[sentencepiece]", and compile again'


def test_run_says_why_an_engine_has_no_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer.json").write_text(POINTER)
    result = llmc("compile", checkpoint, "-o", tmp_path / "engine")
    assert result.status == 0, result.err
    reason = "the engine has no tokenizer: tokenizer.json is a Git LFS pointer, not the file itself"
    assert f"note: {reason}; fetch it (git lfs pull), and compile again, or give llmc run token ids" in result.err
    for command in (
        ("run", tmp_path / "engine", "--prompt", "a"),
        ("verify", tmp_path / "engine", "--prompt", "a"),
    ):
        llmc(*command).failed(reason, "fetch it (git lfs pull), and compile again; or give token ids (--prompt-ids")
    (tmp_path / "text").write_text("a text")
    for model in (tmp_path / "engine", checkpoint):
        found = llmc("eval", "ppl", model, "--text", tmp_path / "text", "-q")
        found.failed("has no tokenizer: tokenizer.json is a Git LFS pointer", "git lfs pull")
    quantized = ("--passes", "quant=awq", "-o", tmp_path / "other", "-q")
    llmc("compile", checkpoint, *quantized).failed("tokenizer.json is a Git LFS pointer", '{"token_ids": [1, 2, 3]}')


def test_a_file_that_the_class_of_transformers_would_make_something_else_of_is_taken_as_it_is(tmp_path: Path) -> None:
    made = small.words("▁the", "▁list")
    source = copy_of("gptneox-tiny", tmp_path / "source", tokenizer__json=made.to_str())
    assert AutoTokenizer.from_pretrained(source)("the list")["input_ids"] != [1, 2]
    notes: list[str] = []
    (tmp_path / "out").mkdir()
    assert write_tokenizer(source, tmp_path / "out", notes.append) == "tokenizer.json"
    assert Tokenizer(tmp_path / "out" / "tokenizer.json").encode("the list") == [1, 2]
    assert notes == [
        "GPTNeoXTokenizer of transformers makes something else of source's tokenizer.json, which is taken as it is"
    ]
