"""A picture of a trace: the error of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmc.pictures import write_figure
from llmc.tracing.report import Comparison, Depth, ValueTrace


def write_plot(result: ValueTrace, output: Path, text: str) -> None:
    """Draw the errors by depth.

    Args:
        result: the trace.
        output: a `.png`, a `.svg`, or a `.html` page that holds the picture and the text.
        text: the figures as text.

    Raises:
        RequestError: if the file cannot be written.
    """
    write_figure(_figure(result), output, "Error by depth", text)


_LINEAR = 1e-6
"""Below this error the scale is linear, so that 0 has a place."""


def _row(at: Comparison, depths: Sequence[Depth]) -> int:
    """The place of the row to which a comparison belongs; of rows outside of layers that in which something parts."""
    rows = [number for number, depth in enumerate(depths) if depth.layer == at.layer]
    return next((number for number in rows if depths[number].worst.parts), rows[0] if rows else 0)


def _figure(result: ValueTrace) -> Any:
    from matplotlib.figure import Figure

    depths = result.depths
    figure = Figure(figsize=(max(7.0, 0.22 * len(depths)), 4.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(depths))
    rows = (
        ("largest error", [depth.worst.difference.error for depth in depths], "o-"),
        ("error of the last value", [depth.last.difference.error for depth in depths], "s-"),
        ("tolerance", [depth.last.tolerance for depth in depths], "k--"),
    )
    for label, errors, style in rows:
        axes.plot(places, errors, style, label=label, markersize=4)
    if result.parting is not None:
        at = result.parting.at
        axes.axvline(_row(at, depths), color="tab:red", linestyle=":", label=f"parts at {at.a.name}")
    if any(error for _, errors, _ in rows for error in errors):
        axes.set_yscale("symlog", linthresh=_LINEAR)
        axes.set_ylim(bottom=-_LINEAR / 5)
    every = max(1, len(depths) // 24)
    names = [depth.words.split()[0] if depth.layer is None else str(depth.layer) for depth in depths]
    axes.set_xticks(list(places)[::every], names[::every])
    axes.set_xlabel("layer")
    axes.set_ylabel("relative error")
    axes.set_title(f"A: {result.a}\nB: {result.b}", fontsize="small")
    axes.legend(fontsize="small")
    return figure
