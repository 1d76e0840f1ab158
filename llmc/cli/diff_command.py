"""`llmc diff`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmc.cli import options

if TYPE_CHECKING:
    from compiler.ir.diff import GraphDiff


def diff_command(
    before: Annotated[str, typer.Argument(metavar="A", help="An .ir file, an engine, or a checkpoint.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    origins: Annotated[
        bool, typer.Option("--origins", help="Show also operations that differ only in the passes that touched them.")
    ] = False,
    json_output: options.Json = False,
    plugin: options.Plugins = None,
    debug: options.Debug = False,
) -> None:
    """Show how two graphs differ: - only in A, + only in B, = renamed, ~ moved.

    The exit status is 0 if they are the same, 1 if they differ, 2 if one cannot be read. Where the files of weights
    lie makes no difference.

    \b
    llmc diff dumps/00-lifted.ir dumps/01-cleanup.ir
    llmc diff my-checkpoint my.engine
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from compiler.ir.diff import diff_graphs
    from compiler.ir.diff_text import format_diff
    from llmc.inspecting import open_subject

    a, b = (replace(open_subject(path).graph, root=".") for path in (before, after))
    diff = diff_graphs(a, b)
    if json_output:
        print(json.dumps(_json(diff), indent=2))
    else:
        print(format_diff(diff, origins=origins), end="")
    raise typer.Exit(0 if diff.empty and not (origins and diff.origins) else 1)


def _json(diff: GraphDiff) -> dict[str, Any]:
    from compiler.ir.printer import format_op

    def changes(pairs: Any) -> list[dict[str, Any]]:
        return [{"before": format_op(c.before), "after": format_op(c.after), "what": list(c.what)} for c in pairs]

    return {
        "equal": diff.empty,
        "head": [{"before": was, "after": now} for was, now in diff.head],
        **{name: [format_op(op) for op in getattr(diff, name)] for name in ("added", "removed", "moved")},
        **{name: changes(getattr(diff, name)) for name in ("changed", "renamed", "origins")},
    }
