"""Reading a file of YAML that belongs to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compiler.errors import ConfigError
from compiler.frontends.file_kinds import read_start
from compiler.text_files import read_text


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a file of YAML, or of JSON, which is YAML as well. Tags, which could stand for code, are refused.

    Raises:
        CheckpointError: if the file cannot be read, or was never fetched.
        ConfigError: if it holds no mapping.
    """
    import yaml  # type: ignore[import-untyped]

    read_start(path, str(path))
    try:
        content = yaml.safe_load(read_text(path, ConfigError).text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is no YAML: {reason}", hint="correct it there, or copy the file again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, not a mapping with keys")
    return {str(key): value for key, value in content.items()}
