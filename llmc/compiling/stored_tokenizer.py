"""Reading a checkpoint's `tokenizer.json` as transformers does, where that needs no transformers, whose import is slow.

Most checkpoints have a `tokenizer.json` that says everything. But transformers picks a class of tokenizers by
`tokenizer_config.json` and the type of the model, and that class may build parts anew, and add tokens. Here it is
decided whether it would change anything that matters to ids or texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"

# The class that transformers takes for a type of model whose checkpoint names none.
_CLASS_OF_MODEL = {
    "gpt_neox": "GPTNeoXTokenizer",
    "gptj": "GPT2Tokenizer",
    "opt": "GPT2Tokenizer",
    "mpt": "GPTNeoXTokenizer",
}
# These take `tokenizer.json` as it is.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# These build the tokenizer anew from the vocabulary and merges: by class the normalizer, and the special tokens that
# they add if `tokenizer_config.json` does not say otherwise.
_END = "<|endoftext|>"
_REBUILT: dict[str, tuple[dict[str, str] | None, dict[str, str]]] = {
    "GPT2Tokenizer": (None, {"unk_token": _END, "bos_token": _END, "eos_token": _END}),
    "GPTNeoXTokenizer": (
        {"type": "NFC"},
        {"unk_token": _END, "bos_token": _END, "eos_token": _END, "pad_token": "<|padding|>"},
    ),
}

# Keys of tokenizer_config.json that change neither ids nor texts where there is a tokenizer.json; keys of tokens and
# those of `_is_neutral` are looked at. With any other key, transformers is asked.
_INERT = frozenset(
    ("add_bos_token", "add_eos_token", "chat_template", "errors", "is_local", "local_files_only", "max_len",
     "model_input_names", "model_max_length", "name_or_path", "padding_side", "processor_class",
     "special_tokens_map_file", "tokenizer_class", "tokenizer_file", "trim_offsets", "truncation_side", "use_fast")
)  # fmt: skip
_TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_REBUILDING_LOSES = (
    *("dropout", "continuing_subword_prefix", "end_of_word_suffix"),
    *("fuse_unk", "byte_fallback", "ignore_merges"),
)


def read_stored(source: Path) -> Tokenizer | None:
    """The tokenizer in the folder's `tokenizer.json`, if transformers would make no other of it.

    Returns:
        The tokenizer; None if there is no such file, if it cannot be read, or if only transformers can tell what it is.
    """
    import tokenizers

    try:
        if not _is_unchanged(source):
            return None
        return tokenizers.Tokenizer.from_file(str(source / FILE))
    except Exception:  # noqa: BLE001 - whatever is wrong with the files, transformers' reader says it
        return None


def _is_unchanged(source: Path) -> bool:
    content, settings, model = (_read(source / name) for name in (FILE, CONFIG, "config.json"))
    # What older files add, newer settings make void.
    old = "added_tokens_decoder" not in settings
    legacy = _read(source / "special_tokens_map.json") if old else {}
    added = _read(source / "added_tokens.json") if old else {}
    own = _CLASS_OF_MODEL.get(str(model.get("model_type")))
    name = str(settings.get("tokenizer_class") or model.get("tokenizer_class") or own)
    if own is None or not _is_neutral(content, {**settings, **legacy}):
        return False
    if name in _PLAIN_CLASSES:
        return _has_tokens(content, added, settings, legacy)
    name = name.removesuffix("Fast")
    if name not in _REBUILT:
        return False
    normalizer, defaults = _REBUILT[name]
    return (
        _has_tokens(content, added, {**defaults, **settings}, legacy)
        and _keeps_ids(content, settings.get("added_tokens_decoder"))
        and _is_rebuilt_alike(content, normalizer, add_prefix_space=bool(settings.get("add_prefix_space")))
        and (name != "GPTNeoXTokenizer" or _puts_nothing_around(content))
    )


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no file."""
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _is_neutral(content: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether no setting but the tokens changes ids or texts."""
    harmless = {
        "add_prefix_space": (False, True),  # where it matters, `_is_rebuilt_alike` compares it
        "backend": ("tokenizers",),
        # Spaces are cleaned up for every kind but BPE.
        "clean_up_tokenization_spaces": (False, True) if content["model"].get("type") == "BPE" else (False,),
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": (False,),
        "split_special_tokens": (False,),
    }
    return all(
        key in _INERT
        or key.endswith("_token")
        or key in (*_TOKEN_LISTS, "added_tokens_decoder")
        or value is None
        or value in harmless.get(key, ())
        for key, value in settings.items()
    )


def _has_tokens(content: Mapping[str, Any], added: Mapping[str, int], *settings: Mapping[str, Any]) -> bool:
    """Whether each token that transformers would add is in the file already, as an added token like that."""
    stored = {token["content"]: token for token in content["added_tokens"]}
    special = [text for one in settings for text in _special_texts(one)]
    decoder = [item for one in settings for item in one.get("added_tokens_decoder", {}).items()]
    return (
        all(text in stored and stored[text]["special"] for text in special)
        and all(text in stored and stored[text]["id"] == number for text, number in added.items())
        and all(
            (known := stored.get(token["content"])) is not None
            and known["id"] == int(number)
            and all(known[flag] == token[flag] for flag in _FLAGS)
            for number, token in decoder
        )
    )


def _special_texts(settings: Mapping[str, Any]) -> Iterator[str]:
    """The special tokens that settings name."""
    for key, value in settings.items():
        if key.endswith("_token") and not isinstance(value, bool | None):
            yield _text(value)
        elif key in _TOKEN_LISTS and value:
            yield from map(_text, value.values() if isinstance(value, dict) else value)


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _keeps_ids(content: Mapping[str, Any], declared: Mapping[str, Any] | None) -> bool:
    """Whether added tokens keep their ids when they are added anew: they are in the vocabulary, or follow on it."""
    vocabulary = content["model"]["vocab"]
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    new = sorted(number for text, number in added.items() if text not in vocabulary)
    return (
        new == list(range(len(vocabulary), len(vocabulary) + len(new)))
        and all(vocabulary.get(text, number) == number for text, number in added.items())
        and (declared is None or set(map(int, declared)) == set(added.values()))
    )


def _is_rebuilt_alike(
    content: Mapping[str, Any], normalizer: Mapping[str, str] | None, *, add_prefix_space: bool
) -> bool:
    """Whether a byte-level BPE that is built anew from the vocabulary and merges is what the file has."""
    from tokenizers import pre_tokenizers

    model, split = content["model"], content["pre_tokenizer"] or {}
    return (
        model["type"] == "BPE"
        and not any(model.get(key) for key in _REBUILDING_LOSES)
        and model["vocab"].keys() >= set(pre_tokenizers.ByteLevel.alphabet())  # so that nothing is unknown
        and content["normalizer"] == normalizer
        and split.get("type") == "ByteLevel"
        and split.get("use_regex", True)
        and split.get("add_prefix_space") == add_prefix_space
        and (content["decoder"] or {}).get("type") == "ByteLevel"
    )


def _puts_nothing_around(content: Mapping[str, Any]) -> bool:
    around = content["post_processor"] or {"type": "ByteLevel"}
    return around["type"] in ("ByteLevel", "TemplateProcessing") and not around.get("special_tokens")
