"""`llmc passes`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from llmc.cli import options


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
