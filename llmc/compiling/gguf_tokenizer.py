"""The tokenizer that a GGUF file holds, as the tokenizers library reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import CheckpointError
from compiler.frontends.gguf_file import read_gguf
from runtime.generation.chat import TEMPLATE_FILES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WHOLE = "tokenizer.huggingface.json"
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
# Names that llama.cpp gives to the way in which GPT-2 takes texts to pieces before it merges.
_LIKE_GPT2 = ("gpt-2", "gpt2", "olmo", "mpt", "jais")
_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type


def read_tokenizer(path: Path, note: Callable[[str], None]) -> Tokenizer:
    """The tokenizer in a file.

    Args:
        path: the file.
        note: called with a sentence where the file does not say everything.

    Raises:
        ValueError: if it holds none, or one of a kind that has no counterpart, saying which.
    """
    import tokenizers

    keys = _keys(path)
    if _WHOLE in keys:
        try:
            return tokenizers.Tokenizer.from_str(keys[_WHOLE])
        except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions
            raise ValueError(f"its {_WHOLE!r} cannot be read ({error})") from None
    kind = keys.get("tokenizer.ggml.model")
    if kind is None:
        raise ValueError("it holds no tokenizer")
    if kind != "gpt2":
        raise ValueError(f"its tokenizer is of the kind {kind!r}, which has no counterpart")
    before = keys.get("tokenizer.ggml.pre")
    if before is not None and before not in _LIKE_GPT2:
        raise ValueError(f"its tokenizer takes texts to pieces as {before!r} does, which llmc does not know")
    return _byte_level(keys, note)


def settings(path: Path) -> dict[str, str]:
    """The files for chats that a file stands for: their names and texts."""
    keys = _keys(path)
    tokens = keys.get("tokenizer.ggml.tokens", [])
    numbers = {name: keys.get(f"tokenizer.ggml.{word}_token_id") for name, word in _SPECIAL.items()}
    named = {name: tokens[n] for name, n in numbers.items() if isinstance(n, int) and n < len(tokens)}
    files = {"special_tokens_map.json": json.dumps(named, ensure_ascii=False)} if named else {}
    template = keys.get("tokenizer.chat_template")
    return files | ({TEMPLATE_FILES[0]: template} if isinstance(template, str) else {})


def _keys(path: Path) -> Mapping[str, Any]:
    try:
        return read_gguf(path, path.name).keys
    except CheckpointError as error:
        raise ValueError(error.message) from None


def _byte_level(keys: Mapping[str, Any], note: Callable[[str], None]) -> Tokenizer:
    """Byte-pair encoding as in GPT-2."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    tokens, merges = keys.get("tokenizer.ggml.tokens"), keys.get("tokenizer.ggml.merges")
    if not tokens or merges is None:
        raise ValueError("its tokenizer has no tokens, or no merges")
    try:
        model = models.BPE({token: i for i, token in enumerate(tokens)}, [tuple(pair.split(" ")) for pair in merges])
    except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions
        raise ValueError(f"its tokens and merges do not fit each other ({error})") from None
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, keys.get("tokenizer.ggml.token_type", ()), strict=False):
        if kind in (_CONTROL, _USER_DEFINED):
            tokenizer.add_tokens([tokenizers.AddedToken(token, special=kind == _CONTROL, normalized=False)])
    _put_around(tokenizer, keys, tokens)
    note(
        "a GGUF file does not say whether its tokenizer composes accents first (NFC), as that of GPT-NeoX does: the "
        "engine's does not (with tokenizer.json of the original, it would)"
    )
    return tokenizer


def _put_around(tokenizer: Tokenizer, keys: Mapping[str, Any], tokens: list[str]) -> None:
    """Put the start and end tokens around a text that the file says are put around it."""
    from tokenizers import processors

    def token(which: str) -> list[tuple[str, int]]:
        number = keys.get(f"tokenizer.ggml.{which}_token_id")
        wanted = keys.get(f"tokenizer.ggml.add_{which}_token", False)
        return [(tokens[number], number)] if wanted and isinstance(number, int) and number < len(tokens) else []

    before, after = token("bos"), token("eos")
    if before or after:
        single = [*(text for text, _ in before), "$A", *(text for text, _ in after)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=[*single, "$B:1"], special_tokens=[*before, *after]
        )
