"""`llmc passes`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llmc.cli import options
from llmc.cli.console import table

if TYPE_CHECKING:
    from compiler.passes import PassInfo


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
    """
    from compiler.passes import describe_passes, find_pass
    from llmc.pipeline import AUTOMATIC, load_plugins

    load_plugins(plugin or ())
    found = describe_passes() if name is None else (find_pass(name),)
    if json_output:
        print(json.dumps([info.as_json() for info in found], indent=2))
    elif name is not None:
        print(_details(found[0]))
    else:
        rows = [(info.name, _row(info)) for info in found]
        print(table(rows))
        print(f"\nAdded by llmc compile unless named: {', '.join(AUTOMATIC)}. More: llmc passes NAME.")


def _row(info: PassInfo) -> str:
    """What the pass does, then its options."""
    options_text = " ".join(f"[{option.text}]" for option in info.options)
    return f"{info.summary} {options_text}".rstrip()


def _details(info: PassInfo) -> str:
    parts = [f"{info.name} (defined in {info.module})", info.doc]
    if info.options:
        first = info.options[0]
        parts.append(f"Options, the first of which {info.name}=VALUE sets:")
        rows = [
            (f"  {option.name}={option.type_text}", f"{_default(option)}{' ' if option.help else ''}{option.help}")
            for option in info.options
        ]
        parts.append(table(rows))
        parts.append(f"Example: {info.name}={first.type_text}")
    return "\n\n".join(parts)
