"""Reading `config.ini`, in which tools of NVIDIA say what a model is. Every value is text until it is asked for."""

from __future__ import annotations

import configparser
import math
from collections.abc import Mapping
from pathlib import Path

from compiler.errors import ConfigError
from compiler.frontends.file_kinds import read_start
from compiler.text_files import read_text

_HINT = "correct it there: it must be what the model was converted with"
_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class Section:
    """The keys of one section. Where a key has several names, the first that is there counts; `None` is no value."""

    def __init__(self, file: Path, name: str, values: Mapping[str, str]) -> None:
        self.file = file
        self.name = name
        self.values = {key: value for key, value in values.items() if value.strip() not in ("", "None")}

    def integer(self, *keys: str, default: int | None = None) -> int:
        """A positive integer; ConfigError if it is none, or missing without a default."""
        text = self._find(keys)
        if text is None and default is not None:
            return default
        try:
            value = float(self._required(keys, text))  # products of a ratio are written as 64.0
        except ValueError:
            value = math.nan
        if not value.is_integer():
            raise self.invalid(keys, "it must be an integer")
        if value < 1:
            raise self.invalid(keys, "it must be at least 1")
        return int(value)

    def number(self, *keys: str, default: float) -> float:
        """A number; ConfigError if it is none."""
        text = self._find(keys)
        try:
            return default if text is None else float(text)
        except ValueError:
            raise self.invalid(keys, "it must be a number") from None

    def flag(self, *keys: str, default: bool) -> bool:
        """Whether something holds; ConfigError if the value says neither."""
        text = self._find(keys)
        if text is None:
            return default
        if text.lower() not in _FLAGS:
            raise self.invalid(keys, "it must be true or false")
        return _FLAGS[text.lower()]

    def text(self, *keys: str, default: str = "") -> str:
        """The value as it is written."""
        return self._find(keys) or default

    def token(self, *keys: str) -> int | None:
        """The id of a token; None if there is none, ConfigError if it is no integer."""
        text = self._find(keys)
        try:
            return None if text is None else int(text)
        except ValueError:
            raise self.invalid(keys, "it must be the id of a token") from None

    def invalid(self, keys: tuple[str, ...], must: str) -> ConfigError:
        """The error for a value that cannot be."""
        key = next((key for key in keys if key in self.values), keys[0])
        return ConfigError(f"{self.file}, [{self.name}]: {key!r} is {self.values.get(key)!r}; {must}", hint=_HINT)

    def _find(self, keys: tuple[str, ...]) -> str | None:
        return next((self.values[key].strip() for key in keys if key in self.values), None)

    def _required(self, keys: tuple[str, ...], text: str | None) -> str:
        if text is None:
            also = f" (nor {' nor '.join(map(repr, keys[1:]))})" if len(keys) > 1 else ""
            raise ConfigError(f"{self.file}, [{self.name}]: {keys[0]!r}{also} is missing", hint=_HINT)
        return text


def read_sections(path: Path) -> dict[str, Section]:
    """The sections of a file; CheckpointError if it cannot be read, ConfigError if it is malformed."""
    read_start(path, str(path))
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(read_text(path, ConfigError).text)
    except configparser.Error as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read: {reason}", hint="correct it there, or copy the file again") from None
    return {name: Section(path, name, parser[name]) for name in parser.sections()}
