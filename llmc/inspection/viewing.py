"""What `llmc view` shows of what a path names: one graph, two to compare, or all dumps of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compiler.errors import GraphError, LlmcError
from compiler.ir.diff import diff_graphs
from compiler.ir.drawing.model_explorer import model_explorer_json
from compiler.ir.drawing.page import page
from compiler.ir.drawing.page_data import Shown
from compiler.ir.drawing.scene import scene
from compiler.ir.drawing.svg import svg, svg_of_diff
from compiler.ir.files import read_graph
from llmc.inspection.facts import open_subject
from llmc.inspection.png import png
from llmc.naming import dumped_graphs

FORMATS = ("html", "svg", "png", "model-explorer")


@dataclass(frozen=True)
class View:
    """What is to be shown.

    Attributes:
        title: what it is called.
        shown: the graphs, in order.
        compare: whether there are two, to be compared.
        errors: the errors of quantized ops that an engine's manifest holds.
    """

    title: str
    shown: Sequence[Shown]
    compare: bool = False
    errors: Sequence[Mapping[str, Any]] = field(default=())

    def drawn(self, form: str, opened: Collection[str] | None = None) -> str | bytes:
        """The content of a file.

        Args:
            form: one of `FORMATS`.
            opened: the groups to open; None for what suits the form.

        Raises:
            GraphError: if there is no such group, or more graphs than the form can show.
            TargetError: if nothing is installed that makes a PNG.
        """
        if form == "html":
            for name in opened or ():
                _check_group(self.shown, name)
            return page(self.shown, title=self.title, compare=self.compare, opened=opened or (), errors=self.errors)
        if form == "model-explorer":
            return model_explorer_json(self.shown, title=self.title)
        picture = self._svg(opened)
        return png(picture) if form == "png" else picture

    def _svg(self, opened: Collection[str] | None) -> str:
        if self.compare:
            before, after = self.shown
            diff = diff_graphs(*(replace(each.graph, root=".") for each in (before, after)))
            return svg_of_diff(diff, (before.label, after.label), opened=opened)
        if len(self.shown) > 1:
            raise GraphError(
                f"a still picture shows one graph or two, but {self.title} has {len(self.shown)}",
                hint=f"name one or two of them, such as {self.shown[0].label}; or write a page: -o FILE.html",
            )
        return svg(self.shown[0].graph, opened=opened)


def _check_group(shown: Sequence[Shown], name: str) -> None:
    """GraphError if no graph has the group."""
    error: LlmcError | None = None
    for each in shown:
        try:
            scene(each.graph, opened=[name])
        except GraphError as wrong:
            error = error or wrong
        else:
            return
    if error:
        raise error


def open_view(
    path: str,
    other: str | None = None,
    *,
    dummy_weights: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> View:
    """What `path` names, or how `other` differs from it.

    Args:
        path: an `.ir` file, an engine, a checkpoint, or a folder of dumps; `-` for a graph on standard input.
        other: the same, but no folder of dumps; None to show `path` alone.
        dummy_weights: whether the weights of a checkpoint may be missing.
        note: called with a sentence about each thing that is odd but harmless.

    Raises:
        LlmcError: if it is none of these, or damaged.
    """
    dumps = dumped_graphs(Path(path).expanduser())
    if dumps and other is None:
        return View(_name(path), [Shown(file.stem, read_graph(file)) for file in dumps])
    if other == "-" and path == "-":
        raise GraphError("both graphs are standard input", hint="give one of them as a file")
    subjects = [
        open_subject(each, dummy_weights=dummy_weights, note=note) for each in (path, other) if each is not None
    ]
    fidelity = [each.manifest.fidelity for each in subjects if each.manifest]
    errors: Sequence[Mapping[str, Any]] = next((each["ops"] for each in reversed(fidelity) if each.get("ops")), ())
    labels = [_name(each) for each in (path, other) if each is not None]
    shown = [Shown(label, subject.graph) for label, subject in zip(labels, subjects, strict=True)]
    return View(" | ".join(labels), shown, compare=other is not None, errors=errors)


def _name(path: str) -> str:
    return "standard input" if path == "-" else Path(path).expanduser().resolve().name


def format_of(output: Path | None, wanted: str | None) -> str:
    """The form of a file: as wanted, else by the ending of its name; a page where nothing says.

    Raises:
        GraphError: for an unknown form or ending, or ones that contradict each other.
    """
    if wanted is not None and wanted not in FORMATS:
        raise GraphError(f"there is no format {wanted!r}", hint=f"formats are {', '.join(FORMATS)}")
    if output is None:
        return wanted or "html"
    ending = {".html": "html", ".htm": "html", ".svg": "svg", ".png": "png", ".json": "model-explorer"}.get(
        output.suffix.lower()
    )
    if wanted is not None and ending is not None and wanted != ending:
        raise GraphError(f"{output} cannot be of the format {wanted}", hint="leave out --format, or name another file")
    if wanted is None and ending is None:
        raise GraphError(
            f"the name {output} does not say what to write",
            hint="let it end in .html, .svg, .png or .json, or give --format",
        )
    return wanted or ending or "html"
