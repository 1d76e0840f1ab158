"""Lists of things with options as text: `quant=awq:group=128,kv=int8,tp=2`.

    list := thing ("," thing)*
    thing := name ["=" value] (":" option ["=" value])*

`=value` after the name sets the first option; an option without a value is a flag that is set. The canonical spelling
has the options in order and leaves defaults out; reading it gives equal things.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from compiler.options.fields import Option, read_value
from compiler.options.info import MakerInfo
from compiler.suggest import did_you_mean


@dataclass(frozen=True)
class Grammar:
    """How the lists of one sort of thing are read, and what messages call them.

    Attributes:
        info: the sort of thing.
        item: what an item of a list is called: `pass`.
        items: its plural.
        whole: what a list is called: `pipeline`.
        find: gives what a name stands for, or raises.
        words: items that stand for something else, and are read as they are.
    """

    info: type[MakerInfo]
    item: str
    items: str
    whole: str
    find: Callable[[str], MakerInfo]
    words: Collection[str] = ()

    def read(self, text: str) -> Iterator[Any]:
        """The things that a text names, in order; none for an empty text.

        Raises:
            LlmcError: of the sort's kind, showing the item, if it names no such thing, or an option is unknown, missing
                or has no such value.
        """
        position = 0
        for number, item in enumerate(text.split(",") if text.strip() else (), 1):
            try:
                yield item.strip() if item.strip() in self.words else self._read(item.strip())
            except self.info.error as error:
                start = position + len(item) - len(item.lstrip())
                marker = " " * start + "^" * max(1, len(item.strip()))
                raise self.info.error(
                    f"{self.item} {number} of the {self.whole}: {error.message}",
                    hint=error.hint,
                    excerpt=f"  {text}\n  {marker}",
                ) from error
            position += len(item) + 1

    def _read(self, item: str) -> Any:
        head, *rest = item.split(":")
        name, equals, value = head.partition("=")
        if not name.strip():
            raise self.info.error(
                f"the name of a {self.info.noun} is missing", hint=f"{self.items} are separated by single commas"
            )
        info = self.find(name.strip())
        given = [tuple(part.partition("=")) for part in rest]
        if equals:
            if not info.options:
                raise info.error(f"the {info.noun} {info.name!r} takes no value")
            given.insert(0, (info.options[0].name, "=", value))
        values: dict[str, object] = {}
        for option_name, sign, text in given:
            option = _option(info, option_name.strip())
            if option.name in values:
                raise info.error(f"the option {option.name!r} of {info.name!r} is given twice")
            values[option.name] = self._value(info, option, text.strip() if sign else None)
        return info.make(values)

    def _value(self, info: MakerInfo, option: Option, text: str | None) -> object:
        if text is None:
            if option.is_flag:
                return True
            raise info.error(
                f"the option {option.name!r} of {info.name!r} needs a value: {option.name}={option.type_text}"
            )
        try:
            return read_value(option.type, text)
        except ValueError as error:
            near = did_you_mean(text, option.choices)
            hint = f"{self.items} are separated by commas" if re.search(r"[;\s]", text) else None
            raise info.error(
                f"the option {option.name!r} of {info.name!r} is {error}, not {text!r}{near}", hint=hint
            ) from None


def _option(info: MakerInfo, name: str) -> Option:
    for option in info.options:
        if name and name in (option.name, option.former):
            return option
    suggestion = did_you_mean(name, [option.name for option in info.options])
    raise info.error(f"the {info.noun} {info.name!r} has no option {name!r}{suggestion}", hint=_options_hint(info))


def _options_hint(info: MakerInfo) -> str:
    if not info.options:
        return f"{info.name!r} has no options"
    return f"the options of {info.name!r}, with their defaults: {', '.join(option.text for option in info.options)}"
