"""A picture of a benchmark: tokens a second, and the time of a token beside its bound."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compiler.atomic_file import replacing
from compiler.errors import RequestError
from llmc.benchmarking.bench import Benchmark
from llmc.benchmarking.runs import Cell, Load

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


def write_plot(result: Benchmark, output: Path, table: str) -> None:
    """Draw a benchmark.

    Args:
        result: the benchmark.
        output: a `.png`, a `.svg`, or a `.html` page that holds the picture and the table.
        table: the figures as text.

    Raises:
        RequestError: if the file cannot be written.
    """
    figure, kind = _figure(result), output.suffix.lower()
    try:
        with replacing(output.expanduser()) as temporary:
            if kind == ".html":
                temporary.write_text(_page(result, figure, table), encoding="utf-8")
            else:
                figure.savefig(temporary, format=kind[1:], dpi=150)
    except OSError as error:
        raise RequestError(f"cannot write {output}: {error.strerror}") from None


def _figure(result: Benchmark) -> Any:
    from matplotlib.figure import Figure

    loads = list(dict.fromkeys(cell.load for cell in result.cells))
    runners = list(dict.fromkeys(cell.runner for cell in result.cells))
    figure = Figure(figsize=(max(7.0, 2.2 * len(loads) * len(runners)), 4.2), layout="constrained")
    rates, times = figure.subplots(1, 2)
    width = 0.8 / len(runners)
    for place, runner in enumerate(runners):
        cells = {cell.load: cell for cell in result.cells if cell.runner == runner}
        at = [number + width * (place - (len(runners) - 1) / 2) for number in range(len(loads))]
        _bars(rates, at, width, runner, [cells[load].rate for load in loads], 1.0)
        _bars(times, at, width, runner, [cells[load].each for load in loads], 1e3)
    _bounds(times, loads, result.cells)
    names = [f"batch {load.batch}\n{load.input} in, {load.output} out" for load in loads]
    for axes, title in ((rates, "tokens a second"), (times, "milliseconds a token")):
        axes.set_title(title)
        axes.set_xticks(range(len(loads)), names)
        axes.legend(fontsize="small")
    figure.suptitle(f"{Path(result.engine).name}, {result.device}")
    return figure


def _bars(axes: Any, at: Sequence[float], width: float, label: str, figures: Sequence[Any], unit: float) -> None:
    """A bar for each figure that is known, with a line from its least to its largest value."""
    shown = [(place, figure) for place, figure in zip(at, figures, strict=True) if figure is not None]
    medians = [figure.median * unit for _, figure in shown]
    below = [(figure.median - figure.least) * unit for _, figure in shown]
    above = [(figure.largest - figure.median) * unit for _, figure in shown]
    axes.bar([place for place, _ in shown], medians, width, yerr=[below, above] if shown else None, label=label)


def _bounds(axes: Any, loads: Sequence[Load], cells: Sequence[Cell]) -> None:
    """A line across the bars of each load whose bound is known."""
    known = {cell.load: cell.bound for cell in cells if cell.bound is not None}
    for number, load in enumerate(loads):
        if load in known:
            label = "bound of memory" if number == 0 else None
            axes.hlines(known[load] * 1e3, number - 0.45, number + 0.45, colors="black", linestyles="--", label=label)


def _page(result: Benchmark, figure: Any, table: str) -> str:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    picture = drawn.getvalue()
    title = html.escape(f"{Path(result.engine).name}, {result.device}")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body><h1>{title}</h1>\n{picture[picture.index('<svg') :]}\n<pre>{html.escape(table)}</pre></body></html>\n"
    )
