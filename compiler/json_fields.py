"""Objects of JSON that someone else may have written: every key is checked as it is read, and messages name it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Self, TypeVar, overload

from compiler.errors import LlmcError

T = TypeVar("T", int, float, bool, str, list[Any], dict[str, Any])
D = TypeVar("D")

KINDS: Final[Mapping[Any, str]] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "an object",
}
"""What messages call the types of JSON."""

_SHOWN = 60
_REQUIRED: Any = object()


class Fields:
    """An object of JSON, whose keys are checked as they are read. A key whose value is null counts as absent.

    Attributes:
        values: the object.
        path: the keys that lead to it from the outermost object, each followed by a dot.
    """

    def __init__(
        self, values: Any, *, label: str, path: str = "", error: type[LlmcError] = LlmcError, hint: str | None = None
    ) -> None:
        """Take the object.

        Args:
            values: the object.
            label: what messages say in front of a key, such as `manifest.json: the key`.
            path: the keys that lead to it, each followed by a dot.
            error: the kind of error that tells of a key.
            hint: the mend, for every error.

        Raises:
            LlmcError: of the kind `error`, if it is something else than an object.
        """
        self.path = path
        self._label, self._error, self._hint = label, error, hint
        if not isinstance(values, dict):
            name = path.rstrip(".") or "the whole"
            raise error(f"{label} {name!r} is {shown(values)}; it must be {KINDS[dict]}", hint=hint)
        self.values: dict[str, Any] = values

    @overload
    def take(self, key: str, kind: type[T], *, aliases: Iterable[str] = ()) -> T: ...
    @overload
    def take(self, key: str, kind: type[T], *, aliases: Iterable[str] = (), default: D) -> T | D: ...
    def take(self, key: str, kind: Any, *, aliases: Iterable[str] = (), default: Any = _REQUIRED) -> Any:
        """The value of `key`, or `default` where it is absent.

        Args:
            key: the key.
            kind: the type of its value: `int`, `float`, `bool`, `str`, `list` or `dict`.
            aliases: other spellings of the key.
            default: what stands for a value that is absent; without one, the key must be there.

        Raises:
            LlmcError: of the object's kind, if the value has another type, is absent without a default, or two
                spellings contradict each other.
        """
        given = [name for name in (key, *aliases) if self.values.get(name) is not None]
        for name in given[1:]:
            if self.values[name] != self.values[given[0]]:
                raise self._error(
                    f"{self._label}s {self.name(given[0])} and {self.name(name)} contradict each other: "
                    f"{shown(self.values[given[0]])} and {shown(self.values[name])}",
                    hint="they are two spellings of the same; keep one",
                )
        if not given and default is not _REQUIRED:
            return default
        found = given[0] if given else key
        value = _as_kind(self.values.get(found), kind)
        if value is None:
            raise self.invalid(found, f"it must be {KINDS[kind]}")
        return value

    def integer(self, key: str, low: int = 0) -> int:
        """The integer under `key`; an error of the object's kind if it is missing, something else, or below `low`."""
        value = self.take(key, int)
        if value < low:
            raise self.invalid(key, f"it must be at least {low}")
        return value

    def optional_integer(self, key: str) -> int | None:
        """The same, or None where the key is null or missing."""
        return None if self.values.get(key) is None else self.integer(key)

    def string(self, key: str) -> str:
        """The string under `key`."""
        return self.take(key, str)

    def optional_string(self, key: str) -> str | None:
        """The same, or None where the key is null or missing."""
        return self.take(key, str, default=None)

    def boolean(self, key: str) -> bool:
        """The truth value under `key`."""
        return self.take(key, bool)

    def integers(self, key: str, low: int | None = None) -> tuple[int, ...]:
        """The list of integers under `key`, none of which is below `low`."""
        items = self._items(key, int, "a list of integers")
        if low is not None and min(items, default=low) < low:
            raise self.invalid(key, f"none may be below {low}")
        return tuple(items)

    def string_list(self, key: str) -> tuple[str, ...]:
        """The list of strings under `key`."""
        return tuple(self._items(key, str, "a list of strings"))

    def strings(self) -> dict[str, str]:
        """All keys of this object, each of which must hold a string."""
        return {key: self.string(key) for key in self.values}

    def section(self, key: str) -> Self:
        """The object under `key`."""
        return self._inner(key, self.take(key, dict))

    def sections(self, key: str) -> Iterator[Self]:
        """Each object of the list under `key`."""
        for i, values in enumerate(self.take(key, list)):
            yield self._inner(f"{key}.{i}", values)

    def name(self, key: str) -> str:
        """A key in quotes, with those that lead to it."""
        return repr(self.path + key)

    def says(self, key: str) -> str:
        """How a message about a key begins: `manifest.json: the key 'schema' is missing`."""
        return f"{self._label} {self.name(key)} is {shown(self.values[key]) if key in self.values else 'missing'}"

    def invalid(self, key: str, requirement: str) -> LlmcError:
        """The error for a value that is not as it must be."""
        return self._error(f"{self.says(key)}; {requirement}", hint=self._hint)

    def _inner(self, key: str, values: Any) -> Self:
        return type(self)(values, label=self._label, path=f"{self.path}{key}.", error=self._error, hint=self._hint)

    def _items(self, key: str, kind: type, wanted: str) -> list[Any]:
        items = [_as_kind(value, kind) for value in self.take(key, list)]
        if None in items:
            raise self.invalid(key, f"it must be {wanted}")
        return items


def _as_kind(value: Any, kind: type) -> Any:
    """The value as one of that type; None if it is of another. JSON has one kind of number; a truth value is none."""
    if isinstance(value, bool) and kind is not bool:
        return None
    if kind is float and isinstance(value, int):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, kind) else None


def shown(value: Any) -> str:
    """A value as JSON spells it, for messages; only the type of one that is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _SHOWN else f"of type {type(value).__name__}"
