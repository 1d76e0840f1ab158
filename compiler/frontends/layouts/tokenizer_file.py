"""Finding the tokenizer of a checkpoint that is not in the Hugging Face layout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

_USUAL = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"


def find_tokenizer(folder: Path, others: Iterable[Path] = (), named: str = "") -> Path | None:
    """A file of the tokenizers library; None if there is none, or other files beside it say more of the tokenizer.

    Args:
        folder: the checkpoint's folder.
        others: other folders to look in.
        named: the path that a config gives, which is often one on another machine.
    """
    if (folder / _SETTINGS).is_file():
        return None
    name = Path(named).name
    names = [name, _USUAL] if name.endswith(".json") and "vocab" not in name else [_USUAL]
    places = dict.fromkeys((folder, *others))
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def id_of_token(file: Path, token: str) -> int | None:
    """The id of a token in a file of the tokenizers library; None if it has none, or cannot be read."""
    try:
        content = json.loads(file.read_text("utf-8"))
        added = {entry["content"]: entry["id"] for entry in content.get("added_tokens", ())}
        found = added.get(token, content["model"]["vocab"].get(token))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # whoever reads the tokenizer says what is wrong with it
    return found if isinstance(found, int) else None
