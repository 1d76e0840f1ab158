"""Tokenizers of GGUF files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from llmc.compiling.tokenizer_export import write_tokenizer
from runtime.engine_dir.manifest import NoTokenizer
from tests.cli.llmc_command import llmc
from tests.frontends.models import neox_config, random_model
from tests.paths import MODELS

pytest.importorskip("gguf", reason="the package gguf is not installed")
from tests.frontends.layouts import gguf_writer

ORIGINAL = MODELS / "gptneox-tiny" / "tokenizer.json"
TEXTS = ("Hello world", "  two  spaces\n\tand 12345 ", "naïve 日本語 🙂", "it's I'm\r\n", "a<|endoftext|>b")


def keys(writer: Any, *, pre: str = "olmo", model: str = "gpt2", drop: str = "") -> None:
    """What llama.cpp's converter writes of the tokenizer of an example."""
    content = json.loads(ORIGINAL.read_text("utf-8"))
    vocabulary = content["model"]["vocab"] | {added["content"]: added["id"] for added in content["added_tokens"]}
    added = {each["content"]: each["special"] for each in content["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    if drop != "tokens":
        writer.add_token_list(tokens)
    writer.add_token_types([3 if added.get(token) else 4 if token in added else 1 for token in tokens])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    if drop != "merges":
        writer.add_token_merges(merges)
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}{{ eos_token }}")


def write(path: Path, more: Callable[[Any], None]) -> Path:
    """A small model with a tokenizer."""
    size = tokenizers.Tokenizer.from_file(str(ORIGINAL)).get_vocab_size()
    config = neox_config(vocab_size=size, max_position_embeddings=64)
    return gguf_writer.write(random_model(transformers.GPTNeoXForCausalLM, config, 0), path, more=more)


def test_texts_become_the_same_ids(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write(tmp_path / "model.gguf", keys)
    assert write_tokenizer(path, tmp_path, notes.append) == "tokenizer.json"
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    original = tokenizers.Tokenizer.from_file(str(ORIGINAL))
    for text in TEXTS:
        assert found.encode(text).ids == original.encode(text).ids
        assert found.decode(found.encode(text).ids) == original.decode(original.encode(text).ids)
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ messages[0].content }}{{ eos_token }}"
    first = original.id_to_token(0)
    assert json.loads((tmp_path / "special_tokens_map.json").read_text()) == {"bos_token": first, "eos_token": first}
    assert len(notes) == 1
    assert "NFC" in notes[0]


def test_a_start_token_in_front(tmp_path: Path) -> None:
    def more(writer: Any) -> None:
        keys(writer)
        writer.add_add_bos_token(True)

    path = write(tmp_path / "model.gguf", more)
    write_tokenizer(path, tmp_path)
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert found.encode("Hello").ids[0] == 0
    assert found.encode("Hello", add_special_tokens=False).ids[0] != 0


def test_a_whole_tokenizer_in_the_file_is_taken(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.gguf", lambda writer: writer.add_string("tokenizer.huggingface.json", ORIGINAL.read_text("utf-8"))
    )
    write_tokenizer(path, tmp_path)
    original = tokenizers.Tokenizer.from_file(str(ORIGINAL))
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).to_str() == original.to_str()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (lambda writer: None, "it holds no tokenizer"),
        (lambda writer: keys(writer, model="llama"), "of the kind 'llama'"),
        (lambda writer: keys(writer, pre="qwen2"), "as 'qwen2' does"),
        (lambda writer: keys(writer, drop="tokens"), "has no tokens, or no merges"),
        (lambda writer: keys(writer, drop="merges"), "has no tokens, or no merges"),
        (lambda writer: writer.add_string("tokenizer.huggingface.json", "{"), "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, more: Callable[[Any], None], reason: str) -> None:
    """Or the tokenizer beside the file is taken."""
    path, out = write(tmp_path / "model.gguf", more), tmp_path / "engine"
    out.mkdir()
    why = write_tokenizer(path, out)
    assert isinstance(why, NoTokenizer)
    assert reason in why.reason
    assert not list(out.iterdir())
    (tmp_path / "tokenizer.json").write_bytes(ORIGINAL.read_bytes())
    notes: list[str] = []
    assert write_tokenizer(path, out, notes.append) == "tokenizer.json"
    assert f"the tokenizer is that of {tmp_path}" in notes[0]


def test_a_file_is_a_model_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.gguf", keys)
    monkeypatch.chdir(tmp_path)
    made = llmc("compile", path, "--target", "torch")
    assert made.status == 0, made.err
    shown = llmc("inspect", path, "--json")
    assert json.loads(shown.out)["kind"] == "checkpoint", shown.err
    ran = llmc("run", "model.engine", "--prompt", "Hello", "--max-new-tokens", 2, "--json")
    assert ran.status == 0, ran.err
