"""`llmc new`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmc.cli import options


class Kind(StrEnum):
    """What a package is for."""

    PASS = "pass"
    OP = "op"
    FAMILY = "family"
    TARGET = "target"


def new_command(
    kind: Annotated[Kind, typer.Argument(help="What the package is for.", metavar="{pass|op|family|target}")],
    name: Annotated[str, typer.Argument(help="What it is called, such as my-pass.", metavar="NAME")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to write it; the folder NAME if not given."),
    ] = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a package to start from: a pass, an op, a family of models or a target of your own, with its test.

    It works as it stands: its pyproject.toml has the entry point by which llmc finds it where it is installed.

    \b
    llmc new pass my-pass
    llmc new op my-op -o packages/my-op
    pip install -e my-pass && pytest my-pass && llmc passes my-pass
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from llmc.scaffold import new_package

    made = new_package(kind.value, name, output)
    if json_output:
        print(json.dumps({"folder": str(made.folder), "files": made.files}, indent=2))
    elif not quiet:
        print("\n".join(str(made.folder / file) for file in made.files))
        print(f"\nInstall and test it: pip install -e {made.folder} && pytest {made.folder}")
