"""Graphs in files, as text."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from compiler.errors import GraphError, ParseError
from compiler.ir.graph import Graph
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.replacing import replacing


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """The graph in the file at `path`. A relative root is taken from the file's folder, so that both move together.

    Raises:
        ParseError: naming the file and the line.
        GraphError: if the file cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ParseError(f"{path} is no graph: it is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise GraphError(f"cannot read {path}: {error.strerror}") from None
    try:
        graph = parse_graph(text)
    except ParseError as error:
        raise ParseError(f"{path}, {error.message}", hint=error.hint, excerpt=error.excerpt) from None
    return replace(graph, root=str(path.parent / graph.root))


def write_graph(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write the graph to `path`, whole or not at all. A relative root will be read as relative to the file's folder.

    Raises:
        GraphError: if the file cannot be written.
    """
    path = Path(path)
    text = print_graph(graph)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise GraphError(f"cannot write {path}: {error.strerror}") from None
