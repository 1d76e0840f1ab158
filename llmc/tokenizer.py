"""The checkpoint's tokenizer, brought into the one form that the runtime reads."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.tokenizer import Tokenizer

# A tokenizer needs one of these; transformers makes one up where there is none.
_ESSENTIAL = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
_READ = "tokenizer.json"
_COPIED = ("tokenizer_config.json", "special_tokens_map.json")  # for other programs
# Spaces, special tokens, digits, accents, other scripts, line ends: where conversions go wrong.
_PROBES = (
    "Hello world",
    "  two  spaces\n\tand 12345 ",
    "naïve café, 日本語 🙂",
    "</s><|endoftext|> a<s>b",
    "it's I'm\r\n",
)


def write_tokenizer(source: Path, folder: Path, note: Callable[[str], None]) -> str | None:
    """Write the tokenizer of the checkpoint in `source` into `folder`.

    Args:
        source: the checkpoint's folder.
        folder: the engine directory under construction.
        note: called with a sentence that says why there is none.

    Returns:
        The name of the file that the runtime reads; None if the checkpoint has no tokenizer that it could read.

    Raises:
        OSError: if the folder cannot be written.
    """
    if not has_tokenizer(source):
        note(f"{source.name} has no tokenizer: give llmc run token ids (--prompt-ids)")
        return None
    try:
        original = _load(source)
    except Exception as error:  # noqa: BLE001 - transformers raises anything at all
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        note(f"the tokenizer of {source.name} cannot be loaded, give llmc run token ids (--prompt-ids): {reason}")
        return None
    if not getattr(original, "is_fast", False):
        note(f"the tokenizer of {source.name} is Python code, give llmc run token ids (--prompt-ids)")
        return None
    # Not save_pretrained, whose library reports a full disk as a bare Exception.
    (folder / _READ).write_text(original.backend_tokenizer.to_str(), encoding="utf-8")
    if not _same(original, Tokenizer(folder / _READ)):
        (folder / _READ).unlink()
        note(f"the tokenizer of {source.name} cannot be converted exactly, give llmc run token ids (--prompt-ids)")
        return None
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return _READ


def has_tokenizer(source: Path) -> bool:
    """Whether there are files of a tokenizer in a folder."""
    return any((source / name).is_file() for name in _ESSENTIAL)


def _load(source: Path) -> Any:
    with _quiet():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)


def _same(original: Any, converted: Tokenizer) -> bool:
    for text in _PROBES:
        ids = converted.encode(text)
        if original(text)["input_ids"] != ids:
            return False
        if original.decode(ids, skip_special_tokens=True) != converted.decode(ids):
            return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' advice, which is not about anything that the user did."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
