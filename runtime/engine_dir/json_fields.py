"""Reading JSON that someone else may have written: every key is checked, and messages name it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.errors import EngineError

_NAMES = {int: "an integer", str: "a string", bool: "true or false", dict: "an object", list: "a list"}


class Fields:
    """An object of a JSON file.

    Args:
        file: how messages call the file.
        values: the object.
        path: the keys that lead to it, each followed by a dot.
        hint: the mend, for every error.
    """

    def __init__(self, file: str, values: Any, path: str = "", *, hint: str) -> None:
        self.file, self.path, self.hint = file, path, hint
        if not isinstance(values, dict):
            raise self.error(path.rstrip(".") or "the whole", values, dict)
        self.values: dict[str, Any] = values

    def integer(self, key: str, low: int = 0) -> int:
        """The integer under `key`; EngineError if it is missing, something else, or below `low`."""
        value = self._take(key, int)
        if isinstance(value, bool) or value < low:
            raise EngineError(
                f"{self.file}: the key {self.path + key!r} is {value!r}; it must be at least {low}", hint=self.hint
            )
        return int(value)

    def optional_integer(self, key: str) -> int | None:
        """The same, or None where the key is null or missing."""
        return None if self.values.get(key) is None else self.integer(key)

    def string(self, key: str) -> str:
        """The string under `key`."""
        return str(self._take(key, str))

    def optional_string(self, key: str) -> str | None:
        """The same, or None where the key is null or missing."""
        return None if self.values.get(key) is None else self.string(key)

    def boolean(self, key: str) -> bool:
        """The truth value under `key`."""
        return bool(self._take(key, bool))

    def section(self, key: str) -> Fields:
        """The object under `key`."""
        return Fields(self.file, self._take(key, dict), f"{self.path}{key}.", hint=self.hint)

    def sections(self, key: str) -> Iterator[Fields]:
        """Each object of the list under `key`."""
        for i, values in enumerate(self._take(key, list)):
            yield Fields(self.file, values, f"{self.path}{key}.{i}.", hint=self.hint)

    def integers(self, key: str) -> tuple[int, ...]:
        """The list of integers under `key`."""
        values = self._take(key, list)
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            raise EngineError(
                f"{self.file}: the key {self.path + key!r} is {values!r}; it must be a list of integers", hint=self.hint
            )
        return tuple(values)

    def string_list(self, key: str) -> tuple[str, ...]:
        """The list of strings under `key`."""
        values = self._take(key, list)
        if not all(isinstance(value, str) for value in values):
            raise EngineError(
                f"{self.file}: the key {self.path + key!r} is {values!r}; it must be a list of strings", hint=self.hint
            )
        return tuple(values)

    def strings(self) -> dict[str, str]:
        """All keys of this object, each of which must hold a string."""
        return {key: self.string(key) for key in self.values}

    def _take(self, key: str, kind: type) -> Any:
        if key not in self.values:
            raise EngineError(f"{self.file}: the key {self.path + key!r} is missing", hint=self.hint)
        value = self.values[key]
        if not isinstance(value, kind):
            raise self.error(self.path + key, value, kind)
        return value

    def error(self, key: str, value: Any, kind: type) -> EngineError:
        """The error for a value of another kind."""
        shown = repr(value) if len(repr(value)) <= 40 else f"of type {type(value).__name__}"
        return EngineError(f"{self.file}: the key {key!r} is {shown}; it must be {_NAMES[kind]}", hint=self.hint)
