"""Reading a file of JSON that belongs to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compiler.errors import ConfigError
from compiler.frontends.file_kinds import read_start
from compiler.text_files import read_text


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: if the file cannot be read, or was never fetched.
        ConfigError: if it holds none.
    """
    read_start(path, str(path))
    try:
        content = json.loads(read_text(path, ConfigError).text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is no JSON: {error}", hint="correct it there, or download or copy the file again"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, not an object with keys")
    return content
