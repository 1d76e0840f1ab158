"""Pipelines as text: `quant=awq:group=128,kv=int8,tp=2`.

    pipeline := stage ("," stage)*
    stage    := name ["=" value] (":" option ["=" value])*

`=value` after the name sets the pass's first option; an option without a value is a flag that is set. The canonical
spelling has the options in order and leaves defaults out; reading it gives equal passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from compiler.errors import PassError
from compiler.passes.options import Option, read_value, spell_value
from compiler.passes.protocol import Pass, default_name, maker_of, takes_options
from compiler.passes.registry import PassInfo, find_pass, info_of
from compiler.plugins import blame
from compiler.suggest import did_you_mean


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """The passes that a text names, in order; none for an empty text.

    Raises:
        PassError: showing the stage, if it names no pass or an option is unknown, missing or has no such value.
    """
    return tuple(_read_stages(text)) if text.strip() else ()


def canonical(passes: Iterable[Pass]) -> str:
    """The text of a pipeline with every pass in its canonical spelling."""
    return ",".join(map(spell, passes))


def spell(pass_: Pass) -> str:
    """The canonical spelling of one pass. One that is not registered is called by its own name."""
    info = info_of(pass_)
    if info is None:
        return default_name(maker_of(pass_))
    parts = [info.name]
    for i, option in enumerate(info.options):
        value = getattr(pass_, option.name)
        if not option.required and value == option.default and type(value) is type(option.default):
            continue
        text = spell_value(option.type, value)
        if i == 0:
            parts[0] += f"={text}"
        else:
            parts.append(option.name if option.type is bool and value else f"{option.name}={text}")
    return ":".join(parts)


def _read_stages(text: str) -> Iterator[Pass]:
    position = 0
    for number, stage in enumerate(text.split(","), 1):
        try:
            yield _read_stage(stage.strip())
        except PassError as error:
            start = position + len(stage) - len(stage.lstrip())
            marker = " " * start + "^" * max(1, len(stage.strip()))
            raise PassError(
                f"stage {number} of the pipeline: {error.message}", hint=error.hint, excerpt=f"  {text}\n  {marker}"
            ) from error
        position += len(stage) + 1


def _read_stage(stage: str) -> Pass:
    head, *rest = stage.split(":")
    name, equals, value = head.partition("=")
    if not name.strip():
        raise PassError("the name of a pass is missing", hint="stages are separated by single commas")
    info = find_pass(name.strip())
    given = [tuple(part.partition("=")) for part in rest]
    if equals:
        if not info.options:
            raise PassError(f"the pass {info.name!r} takes no value")
        given.insert(0, (info.options[0].name, "=", value))
    values: dict[str, object] = {}
    for option_name, sign, text in given:
        option = _option(info, option_name.strip())
        if option.name in values:
            raise PassError(f"the option {option.name!r} of {info.name!r} is given twice")
        values[option.name] = _value(info, option, text.strip() if sign else None)
    return _make(info, values)


def _option(info: PassInfo, name: str) -> Option:
    for option in info.options:
        if option.name == name:
            return option
    suggestion = did_you_mean(name, [option.name for option in info.options])
    raise PassError(f"the pass {info.name!r} has no option {name!r}{suggestion}", hint=_options_hint(info))


def _options_hint(info: PassInfo) -> str:
    if not info.options:
        return f"{info.name!r} has no options"
    return f"the options of {info.name!r}, with their defaults: {', '.join(option.text for option in info.options)}"


def _value(info: PassInfo, option: Option, text: str | None) -> object:
    if text is None:
        if option.type is bool:
            return True
        raise PassError(f"the option {option.name!r} of {info.name!r} needs a value: {option.name}={option.type_text}")
    try:
        return read_value(option.type, text)
    except ValueError as error:
        near = did_you_mean(text, option.choices)
        hint = "stages are separated by commas" if re.search(r"[;\s]", text) else None
        raise PassError(
            f"the option {option.name!r} of {info.name!r} is {error}, not {text!r}{near}", hint=hint
        ) from None


def _make(info: PassInfo, values: dict[str, object]) -> Pass:
    if not takes_options(info.maker):
        return info.maker
    missing = [option for option in info.options if option.required and option.name not in values]
    if missing:
        first = missing[0]
        spelling = f"{info.name}=" if first is info.options[0] else f"{info.name}:{first.name}="
        raise PassError(f"the pass {info.name!r} needs a value: {spelling}{first.type_text}", hint=first.help or None)
    try:
        made: Pass = info.maker(**values)
    except (ValueError, TypeError) as error:
        raise PassError(f"the pass {info.name!r} refuses its options: {error}") from error
    except Exception as error:  # noqa: BLE001 - whatever it is, the user is told whose it is
        blame(error, info.maker, f"making the pass {info.name!r}")
    return made
