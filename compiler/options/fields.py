"""Options: the fields of a frozen dataclass, as they are written in texts such as a pipeline.

A field is an int, a float, a bool, a str, a Path, an Enum, a Literal, a tuple of one of these (`0+1+5`), or one of
these or None (`none`). `Annotated[int, "columns that share a scale"]` gives it a help text. In texts, what the grammar
or a shell would take for its own is written `%2C` (a comma), as in a URL.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints
from urllib.parse import quote, unquote

REQUIRED: Any = dataclasses.MISSING


class Formerly(NamedTuple):
    """The name that an option had in earlier versions, by which it is still read; among the notes of `Annotated`."""

    name: str


@dataclass(frozen=True)
class Option:
    """An option of a pass, or of a target.

    Attributes:
        name: the field's name.
        type: the field's type, without `Annotated`.
        default: its default; `REQUIRED` if there is none.
        help: what the option means.
        former: the name that it had in earlier versions; empty if it had none.
    """

    name: str
    type: Any
    default: Any
    help: str = ""
    former: str = ""

    @property
    def required(self) -> bool:
        """Whether the option has no default."""
        return self.default is REQUIRED

    @property
    def is_flag(self) -> bool:
        """Whether its name alone sets it."""
        return bool in (self.type, _optional(self.type))

    @property
    def type_text(self) -> str:
        """The type for a reader, such as `int` or `awq|gptq`."""
        return describe_type(self.type)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that there are, as texts; none if any of the type will do."""
        return tuple(_choices(_optional(self.type) or self.type) or ())

    @property
    def text(self) -> str:
        """The option with its default, such as `group=128`."""
        value = f"{self.type_text} (required)" if self.required else spell_value(self.type, self.default)
        return f"{self.name}={value}"


def options_of(maker: type) -> tuple[Option, ...]:
    """The options of a dataclass; TypeError if a field has a type that no text can be read as."""
    hints = get_type_hints(maker, include_extras=True)
    options = []
    for field in dataclasses.fields(maker):
        if not field.init:
            continue
        declared, help_, former = hints[field.name], "", ""
        if get_origin(declared) is Annotated:
            declared, *notes = get_args(declared)
            help_ = next((note for note in notes if isinstance(note, str)), "")
            former = next((note.name for note in notes if isinstance(note, Formerly)), "")
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        try:
            describe_type(declared)
        except TypeError as error:
            raise TypeError(f"the option {field.name!r} of {maker.__qualname__} {error}") from None
        options.append(Option(field.name, declared, default, help_, former))
    return tuple(options)


_NAMES: dict[Any, str] = {int: "int", float: "float", bool: "bool", str: "str", Path: "path"}


def describe_type(declared: Any) -> str:
    """A type for a reader; TypeError for one that options cannot have."""
    if declared in _NAMES:
        return _NAMES[declared]
    if (choices := _choices(declared)) is not None:
        return "|".join(choices)
    if (inner := _optional(declared)) is not None:
        return f"{describe_type(inner)}|none"
    if (item := _item(declared)) is not None:
        return f"{describe_type(item)}+..."
    raise TypeError(
        f"has the type {declared}; options are int, float, bool, str, Path, Enum, Literal, "
        "tuple[one of these, ...] or one of these | None"
    )


def read_value(declared: Any, text: str) -> Any:
    """The value that `text` spells; ValueError, saying what it should be, if it spells none."""
    if (inner := _optional(declared)) is not None:
        return None if text == "none" else read_value(inner, text)
    if (item := _item(declared)) is not None:
        parts = text.split("+") if text else []
        if "" in parts:
            raise ValueError("a list of items with a + between two of them")
        return tuple([read_value(item, part) for part in parts])
    plain = unquote(text, errors="surrogatepass")
    if (choices := _choices(declared)) is not None:
        if plain not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return choices[plain]
    if declared is bool:
        if text not in ("true", "false"):
            raise ValueError("true or false")
        return text == "true"
    if declared is int:
        if not re.fullmatch(r"-?[0-9]+", text):
            raise ValueError("a whole number")
        return int(text)
    if declared is float:
        return _read_float(text)
    return declared(plain)


def _read_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("a number") from None
    if math.isnan(value):
        raise ValueError("a number")
    return value


def spell_value(declared: Any, value: Any) -> str:
    """The text that `read_value` reads as the value; ValueError for a value that has none."""
    if (inner := _optional(declared)) is not None:
        text = "none" if value is None else spell_value(inner, value)
        return "%6Eone" if text == "none" and value is not None else text
    if (item := _item(declared)) is not None:
        if "" in value:
            raise ValueError(f"{value!r} cannot be written as an option: an item is empty")
        return "+".join([spell_value(item, part) for part in value])
    if isinstance(value, bool):
        return "true" if value else "false"
    if declared is float:
        return repr(float(value)).replace("e+", "e")  # + separates the items of a tuple
    if (choices := _choices(declared)) is not None:
        value = next((text for text, choice in choices.items() if choice == value), value)
    return quote(str(value), errors="surrogatepass")


def _choices(declared: Any) -> dict[str, Any] | None:
    if isinstance(declared, type) and issubclass(declared, Enum):
        return {str(member.value): member for member in declared}
    return {str(value): value for value in get_args(declared)} if get_origin(declared) is Literal else None


def _optional(declared: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(declared) not in (Union, UnionType):
        return None
    inner: Sequence[Any] = [part for part in get_args(declared) if part is not NoneType]
    return inner[0] if len(inner) == 1 and len(get_args(declared)) == 2 else None


def _item(declared: Any) -> Any:
    """`X` of `tuple[X, ...]`, where `X` is no tuple itself."""
    arguments = get_args(declared)
    if get_origin(declared) is not tuple or len(arguments) != 2 or arguments[1] is not Ellipsis:
        return None
    return None if _item(arguments[0]) or _optional(arguments[0]) else arguments[0]
