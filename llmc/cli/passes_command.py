"""`llmc passes`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llmc.cli import options
from llmc.cli.console import table

if TYPE_CHECKING:
    from compiler.passes import Option, PassInfo


def passes_command(
    name: Annotated[str | None, typer.Argument(help="A pass, to see all about it.")] = None,
    json_output: options.Json = False,
    plugin: options.Plugins = None,
    debug: options.Debug = False,
) -> None:
    """List the passes that exist, with their options and defaults.

    A pipeline is written NAME[=VALUE][:OPTION[=VALUE]]..., stages separated by commas; =VALUE right after the name sets
    the pass's first option.

    \b
    llmc passes
    llmc passes dtype
    llmc passes --plugin my_pass.py --json
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from compiler.passes import describe_passes, find_pass
    from llmc.pipeline import AUTOMATIC

    found = describe_passes() if name is None else (find_pass(name),)
    if json_output:
        print(json.dumps([info.as_json() for info in found], indent=2))
    elif name is not None:
        print(_details(found[0]))
    else:
        print(table([row for info in found for row in _rows(info)]))
        print(f"\nAdded by llmc compile unless named: {', '.join(AUTOMATIC)}. More: llmc passes NAME.")


def _rows(info: PassInfo) -> list[tuple[str, str]]:
    """What the pass does, then its options."""
    return [(info.name, info.summary), *(_option_row(option) for option in info.options)]


def _option_row(option: Option) -> tuple[str, str]:
    default = "required" if option.required else f"default {option.text.partition('=')[2]}"
    return f"  {option.name}", f"{option.type_text} ({default}){': ' if option.help else ''}{option.help}"


def _details(info: PassInfo) -> str:
    parts = [f"{info.name} (defined in {info.module})", info.doc]
    if info.options:
        parts.append(f"Options, the first of which is what {info.name}=VALUE sets:")
        parts.append(table([_option_row(option) for option in info.options]))
    return "\n\n".join(parts)
