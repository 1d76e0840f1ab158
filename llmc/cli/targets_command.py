"""`llmc targets`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmc.cli import options
from llmc.cli.made_things import as_json, details, listed


def targets_command(
    name: Annotated[str | None, typer.Argument(help="A target, to see all about it.")] = None,
    json_output: options.Json = False,
    plugin: options.Plugins = None,
    debug: options.Debug = False,
) -> None:
    """List the targets that engines can be built for, with their options and defaults.

    A list of targets is written NAME[:OPTION[=VALUE]]..., targets separated by commas, the values of an option by +.

    \b
    llmc targets
    llmc targets tensorrt-rtx
    llmc compile my-checkpoint --target tensorrt-rtx:workers=1:batch_sizes=1+8
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from llmc.compiling.targets import known_targets

    found = known_targets(name)
    if json_output:
        print(as_json(found))
    elif name is not None:
        print(details(found[0]))
    else:
        print(listed(found))
        always = ", ".join(info.name for info in found if info.target.always)
        print(f"\nEvery engine has: {always}. More: llmc targets NAME.")
