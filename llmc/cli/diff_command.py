"""`llmc diff`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from llmc.cli import options

if TYPE_CHECKING:
    from compiler.ir.diff import GraphDiff


def diff_command(
    before: Annotated[
        str, typer.Argument(metavar="A", help="An .ir file, an engine, a checkpoint, or a folder of dumps.")
    ],
    after: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    origins: Annotated[
        bool, typer.Option("--origins", help="Show also operations that differ only in the passes that touched them.")
    ] = False,
    fold_layers: options.FoldLayers = False,
    json_output: options.Json = False,
    plugin: options.Plugins = None,
    debug: options.Debug = False,
) -> None:
    """Show how two graphs differ: - only in A, + only in B, = renamed, ~ moved.

    The exit status is 0 if they are the same, 1 if they differ, 2 if one cannot be read. Where the files of weights
    lie makes no difference. Two folders of dumps are compared graph by graph: those that the same pass left.

    \b
    llmc diff dumps/00-lift.ir dumps/01-cleanup.ir
    llmc diff my-checkpoint my.engine
    llmc diff dumps/00-lift.ir dumps/02-quant.ir --fold-layers
    llmc diff dumps other-dumps
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from compiler.ir.diff import format_diff
    from llmc.naming import dumped_graphs

    shown = _Shown(origins, fold_layers)
    folders = [dumped_graphs(Path(path).expanduser()) for path in (before, after)]
    if all(folders):
        raise typer.Exit(_diff_folders((before, after), *folders, shown=shown, json_output=json_output))
    diff = _diff(before, after)
    if json_output:
        print(json.dumps(_json(diff), indent=2))
    else:
        print(format_diff(diff, origins=origins, fold_layers=fold_layers), end="")
    raise typer.Exit(0 if _same(diff, origins) else 1)


class _Shown(NamedTuple):
    """How differences are shown: also those of origins alone; layers in which the same differs once."""

    origins: bool
    fold_layers: bool


def _diff(before: str | Path, after: str | Path) -> GraphDiff:
    from compiler.ir.diff import diff_graphs
    from llmc.inspection.facts import open_subject

    return diff_graphs(*(replace(open_subject(path).graph, root=".") for path in (before, after)))


def _same(diff: GraphDiff, origins: bool) -> bool:
    return diff.empty and not (origins and diff.origins)


def _diff_folders(
    names: tuple[str, str], before: list[Path], after: list[Path], *, shown: _Shown, json_output: bool
) -> int:
    """Compare the graphs that the same passes left; returns the exit status."""
    from llmc.dumps import paired

    compared = [(a, b, _diff(a, b) if a and b else None) for a, b in paired(before, after)]
    same = all(diff is not None and _same(diff, shown.origins) for _, _, diff in compared)
    if json_output:
        entries = [
            {"a": a and a.name, "b": b and b.name, **(_json(diff) if diff else {"equal": False})}
            for a, b, diff in compared
        ]
        print(json.dumps({"equal": same, "graphs": entries}, indent=2))
    else:
        print("".join(_section(names, a, b, diff, shown) for a, b, diff in compared), end="")
    return 0 if same else 1


def _section(names: tuple[str, str], a: Path | None, b: Path | None, diff: GraphDiff | None, shown: _Shown) -> str:
    """A line that names two graphs, and how they differ."""
    from compiler.ir.diff import format_diff

    if a is None or b is None or diff is None:
        folder, alone = (names[0], a) if b is None else (names[1], b)
        return f"== only in {folder}: {alone.name if alone else ''}\n"
    named = a.name if a.name == b.name else f"{a.name} | {b.name}"
    return f"== {named}{': the same' if _same(diff, shown.origins) else ''}\n{format_diff(diff, **shown._asdict())}"


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
