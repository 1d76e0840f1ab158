"""Reading and writing graphs in files, as text."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from compiler.atomic_file import replacing
from compiler.errors import GraphError, ParseError
from compiler.ir.graph import Graph
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.text_files import read_text


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """The graph in the file at `path`. A relative root is taken from the file's folder, so that both move together.

    Raises:
        ParseError: naming the file, and the line, if it cannot be read or holds no graph.
    """
    path = Path(path)
    text = read_text(path, ParseError).text
    try:
        graph = parse_graph(text)
    except ParseError as error:
        raise ParseError(f"{path}, {error.message}", hint=error.hint, excerpt=error.excerpt) from None
    return replace(graph, root=str(path.parent / graph.root))


def write_graph(graph: Graph, path: str | os.PathLike[str], *, fold_layers: bool = False) -> None:
    """Write the graph to `path`, whole or not at all. A relative root will be read as relative to the file's folder.

    Args:
        graph: the graph.
        path: the file.
        fold_layers: as of `print_graph`: the file is for readers then.

    Raises:
        GraphError: if the file cannot be written.
    """
    path = Path(path)
    text = print_graph(graph, fold_layers=fold_layers)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        inside = "give a file in it" if path.is_dir() else None
        hint = f"make the folder first: mkdir -p {path.parent}" if not path.parent.exists() else inside
        raise GraphError(f"cannot write {path}: {error.strerror}", hint=hint) from None
