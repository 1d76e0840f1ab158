"""`llmc passes`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmc.cli import options
from llmc.cli.made_things import as_json, details, listed


def passes_command(
    name: Annotated[str | None, typer.Argument(help="A pass, to see all about it.")] = None,
    json_output: options.Json = False,
    plugin: options.Plugins = None,
    debug: options.Debug = False,
) -> None:
    """List the passes that exist, with their options and defaults.

    A pipeline is written NAME[=VALUE][:OPTION[=VALUE]]..., passes separated by commas; =VALUE right after the name sets
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
        print(as_json(found))
    elif name is not None:
        print(details(found[0]))
    else:
        print(listed(found))
        print(f"\nAdded by llmc compile unless named: {', '.join(AUTOMATIC)}. More: llmc passes NAME.")
