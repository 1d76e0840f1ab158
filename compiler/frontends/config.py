"""Reading `config.json` so that no key goes unnoticed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, TypeVar, overload

from compiler.errors import ConfigError

T = TypeVar("T", int, float, bool, str, list[Any])
D = TypeVar("D")


class Size(int):
    """A size that remembers which config keys it comes from, for messages about shapes."""

    origin: str

    def __new__(cls, value: int, origin: str) -> Size:
        size = super().__new__(cls, value)
        size.origin = origin
        return size


class _Missing:
    pass


MISSING = _Missing()
_NAMES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "an object",
}


class Config:
    """The keys of a config, each of which must be taken, or be known not to matter.

    A key whose value is null counts as absent. A key may be spelled in several ways (`aliases`); the first is the one
    that messages use.
    """

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self.values = values
        self.prefix = prefix
        self.taken: set[str] = set()
        self.sections: list[Config] = []

    @overload
    def take(self, key: str, kind: type[T], *, aliases: Iterable[str] = ()) -> T: ...
    @overload
    def take(self, key: str, kind: type[T], *, aliases: Iterable[str] = (), default: D) -> T | D: ...
    def take(self, key: str, kind: Any, *, aliases: Iterable[str] = (), default: Any = MISSING) -> Any:
        """The value of `key`, or `default` where it is absent.

        Raises:
            ConfigError: if it has another type, is absent without a default, or spellings contradict each other.
        """
        found = ""
        value: Any = None
        for name in (key, *aliases):
            self.taken.add(name)
            given = self.values.get(name)
            if given is None:
                continue
            if found and given != value:
                raise ConfigError(
                    f"the config keys {self._name(found)} and {self._name(name)} contradict each other: "
                    f"{_shown(value)} and {_shown(given)}",
                    hint="they are two spellings of the same; keep one",
                )
            found, value = name, given
        if not found:
            if isinstance(default, _Missing):
                state = "is null" if key in self.values else "is missing"
                raise ConfigError(f"the config key {self._name(key)} {state}; it must be {_NAMES[kind]}")
            return default
        # JSON has one kind of number, and Python's bool is an int.
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"the config key {self._name(found)} is {_shown(value)}; it must be {_NAMES[kind]}")
        return value

    @overload
    def size(self, key: str, *, aliases: Iterable[str] = ()) -> Size: ...
    @overload
    def size(self, key: str, *, aliases: Iterable[str] = (), default: D) -> Size | D: ...
    def size(self, key: str, *, aliases: Iterable[str] = (), default: Any = MISSING) -> Any:
        """A positive integer; ConfigError for anything else."""
        value = self.take(key, int, aliases=aliases, default=default)
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if value < 1:
            raise ConfigError(f"the config key {self._name(key)} is {value}; it must be at least 1")
        return value if isinstance(value, Size) else Size(value, self._plain(key))

    def choice(self, key: str, options: Mapping[str, D], *, default: str, aliases: Iterable[str] = ()) -> D:
        """What `options` holds under the value of `key`; ConfigError, listing the options, if nothing."""
        value = self.take(key, str, aliases=aliases, default=default)
        if value not in options:
            raise self.unsupported(key, value, options)
        return options[value]

    def only(self, key: str, *supported: Any) -> None:
        """Take a key that matters but of which only some values are implemented; the first is the default.

        Raises:
            ConfigError: for another value.
        """
        self.taken.add(key)
        value = self.values.get(key)
        if value is not None and value not in supported:
            raise self.unsupported(key, value, supported)

    def section(self, key: str) -> Config:
        """The object under `key` as a config of its own, empty if it is absent; ConfigError if it is no object."""
        self.taken.add(key)
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"the config key {self._name(key)} is {_shown(value)}; it must be an object")
        section = Config(value or {}, f"{self.prefix}{key}.")
        self.sections.append(section)
        return section

    def ignore(self, *keys: str) -> None:
        """Keys that cannot change what the model computes."""
        self.taken.update(keys)

    def unknown(self, inert: Container[str] = ()) -> list[str]:
        """The keys, here and in sections, that nothing took and that are not in `inert`."""
        own = [
            self.prefix + key
            for key, value in self.values.items()
            if value is not None and key not in self.taken and key not in inert
        ]
        return own + [key for section in self.sections for key in section.unknown(inert)]

    def invalid(self, key: str, requirement: str) -> ConfigError:
        """The error for a value that does not fit the other keys."""
        state = _shown(self.values[key]) if key in self.values else "missing"
        return ConfigError(f"the config key {self._name(key)} is {state}; {requirement}")

    def unsupported(self, key: str, value: Any, supported: Iterable[Any]) -> ConfigError:
        """The error for a value that llmc does not implement."""
        listed = ", ".join(_shown(option) for option in supported)
        return ConfigError(
            f"the config key {self._name(key)} is {_shown(value)}, which is not supported; supported: {listed}"
        )

    def _plain(self, key: str) -> str:
        return self.prefix + key

    def _name(self, key: str) -> str:
        return repr(self._plain(key))


def _shown(value: Any) -> str:
    """The value as JSON spells it, for messages."""
    spelled = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    return spelled or ("null" if value is None else repr(value))
