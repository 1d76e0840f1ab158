"""What a name in a text stands for: a function, or a frozen dataclass whose instances have options."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from typing import Any, ClassVar

from compiler.errors import LlmcError
from compiler.options.fields import Option, options_of, spell_value
from compiler.plugins import Plugin, blame, place_of

Maker = Callable[..., Any]
"""What is registered: the thing itself, if it is a function, or the dataclass."""


def takes_options(maker: Maker) -> bool:
    """Whether a thing is made by calling `maker` with options; else `maker` is the thing."""
    return isinstance(maker, type) and is_dataclass(maker)


def is_frozen(maker: Any) -> bool:
    """Whether a class is a frozen dataclass by its own decorator."""
    return "__dataclass_params__" in vars(maker) and bool(maker.__dataclass_params__.frozen)


@dataclass(frozen=True)
class MakerInfo(ABC):
    """A registered thing.

    Attributes:
        name: its name in texts.
        maker: the function that it is, or the dataclass whose instances it is.
        noun: what messages call such a thing: `pass`.
        error: the kind of error that is raised about it.
    """

    name: str
    maker: Maker

    noun: ClassVar[str]
    error: ClassVar[type[LlmcError]]

    @property
    def options(self) -> tuple[Option, ...]:
        """Its options; the first one is what `name=value` sets. An error if a field is of a type that has no text.

        They are the fields of the dataclass, unless it has a class method `declared_options`, because plug-ins can add
        some.
        """
        declared = getattr(self.maker, "declared_options", None)
        return self._fields if declared is None else tuple(declared())

    @cached_property
    def _fields(self) -> tuple[Option, ...]:
        try:
            return options_of(self.maker) if isinstance(self.maker, type) else ()
        except TypeError as error:
            raise self.error(str(error)) from None

    @property
    def doc(self) -> str:
        """What it is for."""
        return inspect.getdoc(self.maker) or ""

    @property
    def summary(self) -> str:
        """The first paragraph of `doc`, on one line."""
        return " ".join(self.doc.partition("\n\n")[0].split())

    @property
    def module(self) -> str:
        """The module that defines it, or the plug-in's file."""
        return place_of(self.maker).home

    @property
    @abstractmethod
    def plugin(self) -> Plugin | None:
        """The plug-in that brings it; None if it is llmc's own."""

    def as_json(self) -> dict[str, Any]:
        """What `llmc passes --json` prints of it."""
        options = [
            {
                "name": option.name,
                "type": option.type_text,
                "required": option.required,
                "default": None if option.required else spell_value(option.type, option.default),
                "help": option.help,
            }
            for option in self.options
        ]
        return {
            "name": self.name,
            "summary": self.summary,
            "doc": self.doc,
            "module": self.module,
            "plugin": self.plugin and self.plugin.name,
            "options": options,
        }

    def check(self) -> None:
        """An error if the name is none, or options are taken by what is no frozen dataclass."""
        what = f"the {self.noun} {self.name!r}"
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            raise self.error(f"{what} needs another name: small letters, digits and hyphens, a letter first")
        if takes_options(self.maker) and not is_frozen(self.maker):
            raise self.error(f"{what} must be a frozen dataclass: write @dataclass(frozen=True)")
        _ = self.options  # refuses fields that no text can be read as

    def make(self, values: Mapping[str, object]) -> Any:
        """The thing with these options; an error if one is missing, or it refuses them."""
        if not takes_options(self.maker):
            return self.maker
        missing = [option for option in self.options if option.required and option.name not in values]
        if missing:
            first = missing[0]
            spelling = f"{self.name}=" if first is self.options[0] else f"{self.name}:{first.name}="
            raise self.error(
                f"the {self.noun} {self.name!r} needs a value: {spelling}{first.type_text}", hint=first.help or None
            )
        try:
            return self.maker(**values)
        except (ValueError, TypeError) as error:
            raise self.error(f"the {self.noun} {self.name!r} refuses its options: {error}") from error
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told whose it is
            blame(error, self.maker, f"making the {self.noun} {self.name!r}")

    def spell(self, made: object) -> str:
        """The canonical text of one that was made: its options in order, without those that have their defaults."""
        parts = [self.name]
        for i, option in enumerate(self.options):
            value = getattr(made, option.name)
            if not option.required and value == option.default and type(value) is type(option.default):
                continue
            try:
                text = spell_value(option.type, value)
            except ValueError as error:
                raise self.error(str(error)) from None
            if i == 0:
                parts[0] += f"={text}"
            else:
                parts.append(option.name if option.is_flag and value else f"{option.name}={text}")
        return ":".join(parts)
