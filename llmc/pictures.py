"""Figures of matplotlib as files: pictures, and pages that hold a picture with its figures as text."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

from compiler.atomic_file import replacing
from compiler.errors import RequestError

FORMATS = (".png", ".svg", ".html")


def check_plot(output: Path | None) -> None:
    """RequestError if a file has a suffix that is no format of pictures, or matplotlib is missing."""
    if output is None:
        return
    if output.suffix.lower() not in FORMATS:
        raise RequestError(
            f"{output} is no picture: its name ends with {output.suffix!r}", hint=f"use {', '.join(FORMATS)}"
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise RequestError(
            "matplotlib is not installed, which draws pictures", hint='pip install "llmc[draw]"'
        ) from None


def write_figure(figure: Any, output: Path, title: str, text: str) -> None:
    """Write a figure of matplotlib.

    Args:
        figure: the figure.
        output: a `.png`, a `.svg`, or a `.html` page that holds the picture and the text.
        title: the title of a page.
        text: what the figure shows, as text.

    Raises:
        RequestError: if the file cannot be written.
    """
    kind = output.suffix.lower()
    try:
        with replacing(output.expanduser()) as temporary:
            if kind == ".html":
                temporary.write_text(_page(figure, title, text), encoding="utf-8")
            else:
                figure.savefig(temporary, format=kind[1:], dpi=150)
    except OSError as error:
        raise RequestError(f"cannot write {output}: {error.strerror}") from None


def _page(figure: Any, title: str, text: str) -> str:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    picture = drawn.getvalue()
    title = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body><h1>{title}</h1>\n{picture[picture.index('<svg') :]}\n<pre>{html.escape(text)}</pre></body></html>\n"
    )
