"""`tokenizer.json` is read without transformers where transformers would make no other tokenizer of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llmc.compiling.stored_tokenizer import read_stored
from tests.paths import MODELS, ROOT

TEXTS = [
    "Hello world",
    "  two  spaces\n\tand 12345 ",
    "naïve café, 日本 🙂",
    "<|endoftext|>x<s></s> <|pad|> y",
    "é",
    "",
]
NAMES = ["gptneox-tiny", "gptj-tiny", "mpt-tiny", "opt-tiny"]
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}
NEOX, GPT2 = {"tokenizer_class": "GPTNeoXTokenizer"}, {"tokenizer_class": "GPT2Tokenizer"}
NEOX_FAST = {"tokenizer_class": "GPTNeoXTokenizerFast", "pad_token": None}
PAD = {"pad_token": "<|endoftext|>"}

Json = dict[str, Any]
Change = Callable[[Json], object]


def unchanged(content: Json) -> None:
    """The file as it is."""


def added(text: str, content: Json, **flags: bool) -> Json:
    """An added token of that text behind the vocabulary."""
    return {
        "id": len(content["model"]["vocab"]), "content": text, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True, **flags,
    }  # fmt: skip


def add(text: str, **flags: bool) -> Change:
    return lambda content: content["added_tokens"].append(added(text, content, **flags))


def nfc(content: Json) -> None:
    content["normalizer"] = {"type": "NFC"}


def start_token(content: Json) -> None:
    number = content["model"]["vocab"]["<|endoftext|>"]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [number], "tokens": ["<|endoftext|>"]}},
    }


def both(*changes: Change) -> Change:
    return lambda content: [change(content) for change in changes]


def prefix_space(content: Json) -> None:
    content["pre_tokenizer"]["add_prefix_space"] = True


def truncation(content: Json) -> None:
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}


def folder(place: Path, model: str, settings: Json | None, change: Change, files: Json) -> Path:
    place.mkdir()
    (place / "config.json").write_bytes((MODELS / model / "config.json").read_bytes())
    content = json.loads((MODELS / model / "tokenizer.json").read_text())
    change(content)
    (place / "tokenizer.json").write_text(json.dumps(content))
    if settings is not None:
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, value in files.items():
        (place / name).write_text(json.dumps(value))
    return place


def check(source: Path, *, quick: bool) -> None:
    """Whether transformers is not needed is as said; where it is not, ids and texts are those of transformers."""
    found = read_stored(source)
    assert (found is not None) == quick
    if found is None:
        return
    found.no_truncation()
    original: Any = AutoTokenizer.from_pretrained(source)
    for text in TEXTS:
        ids = original(text)["input_ids"]
        assert found.encode(text).ids == ids
        assert found.encode(text, add_special_tokens=False).ids == original(text, add_special_tokens=False)["input_ids"]
        for skipped in (False, True):
            assert found.decode(ids, skip_special_tokens=skipped) == original.decode(ids, skip_special_tokens=skipped)


@pytest.mark.parametrize("model", NAMES)
def test_the_examples(model: str) -> None:
    check(MODELS / model, quick=True)


DECLARED = {
    "content": "<x>",
    "lstrip": False,
    "normalized": False,
    "rstrip": False,
    "single_word": False,
    "special": True,
}


@pytest.mark.parametrize(
    ("settings", "change", "files"),
    [
        (PLAIN, truncation, {}),
        (PLAIN, start_token, {}),
        ({**PLAIN, "add_bos_token": True, "add_prefix_space": True}, unchanged, {}),
        ({**PLAIN, "clean_up_tokenization_spaces": True}, unchanged, {}),
        ({**PLAIN, "eos_token": "<x>"}, add("<x>"), {}),
        (PLAIN, add("<x>"), {"special_tokens_map.json": {"eos_token": {"content": "<x>", "lstrip": True}}}),
        (PLAIN, add("<x>"), {"added_tokens.json": {"<x>": 1024}}),
        ({**PLAIN, "added_tokens_decoder": {"1024": DECLARED}}, add("<x>"), {"added_tokens.json": {"other": 7}}),
        ({**PLAIN, "extra_special_tokens": ["<x>"]}, add("<x>"), {}),
        ({**PLAIN, "extra_special_tokens": {"image_token": "<x>"}}, add("<x>"), {}),
        (GPT2, unchanged, {}),
        ({**GPT2, "add_bos_token": True}, start_token, {}),
        ({**GPT2, "add_bos_token": True}, unchanged, {}),
        ({**GPT2, "add_prefix_space": True}, prefix_space, {}),
        ({**GPT2, "tokenizer_class": "GPT2TokenizerFast"}, add("<x>", special=False, normalized=True), {}),
        (NEOX_FAST, nfc, {}),
        ({**NEOX, **PAD}, nfc, {}),
        (NEOX, both(nfc, add("<|padding|>")), {}),
        (
            {**NEOX, **PAD, "added_tokens_decoder": {"1024": DECLARED, "0": {**DECLARED, "content": "<|endoftext|>"}}},
            both(nfc, add("<x>")),
            {},
        ),
    ],
)
@pytest.mark.parametrize("model", ["gptneox-tiny", "opt-tiny"])
def test_what_changes_nothing(tmp_path: Path, model: str, settings: Json, change: Change, files: Json) -> None:
    check(folder(tmp_path / "source", model, settings, change, files), quick=True)


def test_without_settings_the_type_of_the_model_decides(tmp_path: Path) -> None:
    check(folder(tmp_path / "a", "gptj-tiny", None, unchanged, {}), quick=True)
    check(folder(tmp_path / "b", "opt-tiny", None, unchanged, {}), quick=True)
    check(folder(tmp_path / "c", "gptneox-tiny", None, both(nfc, add("<|padding|>")), {}), quick=True)
    check(folder(tmp_path / "d", "gptneox-tiny", None, unchanged, {}), quick=False)


@pytest.mark.parametrize(
    ("settings", "change", "files"),
    [
        # tokens that the file does not have, or has otherwise
        ({**PLAIN, "eos_token": "<x>"}, unchanged, {}),
        ({**PLAIN, "eos_token": "<x>"}, add("<x>", special=False), {}),
        ({**PLAIN, "image_token": "<x>"}, unchanged, {}),
        ({**PLAIN, "extra_special_tokens": ["<x>"]}, unchanged, {}),
        ({**PLAIN, "additional_special_tokens": [{"content": "<x>"}]}, unchanged, {}),
        ({**PLAIN, "added_tokens_decoder": {"1024": DECLARED}}, unchanged, {}),
        ({**PLAIN, "added_tokens_decoder": {"1024": {**DECLARED, "lstrip": True}}}, add("<x>"), {}),
        (PLAIN, unchanged, {"special_tokens_map.json": {"eos_token": "<x>"}}),
        (PLAIN, unchanged, {"added_tokens.json": {"<x>": 1024}}),
        # settings that change ids or texts, or that nothing is known of
        ({**PLAIN, "split_special_tokens": True}, unchanged, {}),
        ({**PLAIN, "unheard_of": 1}, unchanged, {}),
        ({**PLAIN, "auto_map": {"AutoTokenizer": ["x.Y", None]}}, unchanged, {}),
        # classes that build the tokenizer anew, and otherwise
        (GPT2, nfc, {}),
        (GPT2, prefix_space, {}),
        ({**GPT2, "add_prefix_space": True}, unchanged, {}),
        (GPT2, lambda content: content["model"].update(ignore_merges=True), {}),
        (GPT2, lambda content: content.update(decoder=None), {}),
        (GPT2, lambda content: content["pre_tokenizer"].update(use_regex=False), {}),
        ({**GPT2, "added_tokens_decoder": {}}, add("<x>"), {}),
        ({**NEOX, **PAD}, unchanged, {}),
        ({**NEOX, **PAD}, both(nfc, start_token), {}),
        (NEOX, nfc, {}),
        ({"tokenizer_class": "LlamaTokenizer"}, unchanged, {}),
        ({"tokenizer_class": "SomethingElse"}, unchanged, {}),
        (PLAIN, lambda content: content.pop("added_tokens"), {}),
        (PLAIN, unchanged, {"config.json": {"model_type": "llama"}}),
    ],
)
def test_what_transformers_is_asked_for(tmp_path: Path, settings: Json, change: Change, files: Json) -> None:
    check(folder(tmp_path / "source", "gptneox-tiny", settings, change, files), quick=False)


def test_compiling_and_running_import_no_transformers(tmp_path: Path) -> None:
    program = (
        "import sys, llmc\n"
        f"compiled = llmc.compile({str(MODELS / 'opt-tiny')!r}, {str(tmp_path / 'engine')!r}, target='torch')\n"
        "assert llmc.load(compiled.path).generate('The', max_new_tokens=1)[0].prompt_ids\n"
        "assert 'transformers' not in sys.modules\n"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
