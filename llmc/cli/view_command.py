"""`llmc view`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from compiler.errors import GraphError
from llmc.cli import options
from llmc.cli.console import note


def view_command(
    path: Annotated[
        str,
        typer.Argument(
            metavar="THING", help="An .ir file (-: standard input), an engine, a checkpoint, or a folder of dumps."
        ),
    ],
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="Another one, to be compared with it side by side.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A .html, .svg, .png or .json file (-: standard output); NAME.html here if not given.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="html, svg, png or model-explorer; by the file's ending if not given."
        ),
    ] = None,
    expand: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP", help="A group to open at first, such as layers.0, or all. May be repeated."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the file in the browser.")] = False,
    json_output: options.Json = False,
    dummy_weights: options.DummyWeights = False,
    plugin: options.Plugins = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw a graph: a page to explore in a browser, or a still picture.

    The page needs no network. Layers open and close; a search finds values by name; a click shows a value's type,
    where it comes from and who uses it. Of a folder of dumps it shows what each pass changed; of any graph, which ops
    have the most weights and work; of a quantized engine, the error of each layer. No weight is read.

    \b
    llmc view examples/models/gptneox-tiny --open
    llmc view dumps -o passes.html
    llmc view dumps/00-lift.ir dumps/04-cleanup.ir -o change.svg
    llmc view my.engine -o engine.png --expand layers.0
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from compiler.atomic_file import replacing
    from llmc.inspection.viewing import format_of, open_view

    to_stdout = str(output) == "-"
    if to_stdout and (json_output or open_it):
        raise GraphError(f"{'--json' if json_output else '--open'} needs a file", hint="give it a name: -o FILE")
    chosen = format_of(None if to_stdout else output, form)
    notes: list[str] = []
    view = open_view(path, other, dummy_weights=dummy_weights, note=notes.append)
    drawn = view.drawn(chosen, expand)
    content = drawn if isinstance(drawn, bytes) else drawn.encode()
    if to_stdout:
        sys.stdout.buffer.write(content)
        for text in notes if not quiet else []:
            note(text)
        return
    file = (output or Path(f"{_file_name(view.title)}.{'json' if chosen == 'model-explorer' else chosen}")).expanduser()
    try:
        with replacing(file) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise GraphError(f"cannot write {file}: {error.strerror}", hint="give another file: -o FILE") from None
    if open_it:
        notes += _opened(file)
    for text in notes if not quiet else []:
        note(text)
    if json_output:
        entry = {
            "file": str(file),
            "format": chosen,
            "bytes": len(content),
            "graphs": [each.label for each in view.shown],
        }
        print(json.dumps({**entry, **({"notes": notes} if notes else {})}, indent=2))
    elif not quiet:
        print(file)


def _file_name(title: str) -> str:
    """A title as the name of a file."""
    return title.replace(" | ", "-").replace(" ", "-").removesuffix(".ir") or "graph"


def _opened(file: Path) -> list[str]:
    """Show a file in the browser; returns a note if there is none."""
    import webbrowser

    return [] if webbrowser.open(file.resolve().as_uri()) else [f"no browser was found here to open {file}"]
