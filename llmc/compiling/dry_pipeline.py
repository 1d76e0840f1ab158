"""Running a pipeline without data, so that what cannot work is said at once, not after minutes of calibration.

The `dry_run` of a pass that calibrates makes a graph of the same types from no data: weights are rounded to the nearest
value, and scales are placeholders. Nothing is computed, since weights are lazy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.ir.trace import Trace
from compiler.passes import Pass, PipelineResult, run_pipeline
from compiler.passes.pipeline import OnPass
from compiler.passes.protocol import has_dry_run
from compiler.passes.quant import QuantizeCaches
from compiler.passes.quant.calibration.source import CalibrationSource


class NeedsDataError(PassError):
    """A pass calibrates, and has no `dry_run`."""


class _NoData(CalibrationSource):
    """A calibration that has nothing to give."""

    @property
    def is_readable(self) -> bool:
        """No: what a pass would only like to measure, it leaves out."""
        return False

    def windows(self, graph: Graph) -> Tensor:
        """Raises."""
        raise NeedsDataError("there is no data yet")


def calibrates(pipeline: Sequence[Pass]) -> bool:
    """Whether a pipeline has passes that say that they calibrate."""
    return any(has_dry_run(step) and not _is_off(step) for step in pipeline)


def dry_pipeline(
    graph: Graph,
    pipeline: Sequence[Pass],
    *,
    dump_dir: Path | None = None,
    on_pass: OnPass | None = None,
    trace: Trace | None = None,
    fold_layers: bool = False,
) -> PipelineResult:
    """What a pipeline will make of a graph, in ops and types.

    Args:
        graph: the graph.
        pipeline: the passes.
        dump_dir: as of `run_pipeline`.
        on_pass: as of `run_pipeline`.
        trace: as of `run_pipeline`.
        fold_layers: as of `run_pipeline`.

    Raises:
        NeedsDataError: if a pass needs data, so that it cannot be told what it makes.
        PassError: if a pass cannot be applied, as the pipeline itself would.
    """
    current = ""

    def note_pass(spelling: str, index: int, count: int) -> None:
        nonlocal current
        current = spelling
        if on_pass:
            on_pass(spelling, index, count)

    try:
        with _NoData().active():
            return run_pipeline(
                graph,
                pipeline,
                dump_dir=dump_dir,
                on_pass=note_pass,
                trace=trace or Trace(),
                dry_run=True,
                fold_layers=fold_layers,
            )
    except NeedsDataError:
        raise NeedsDataError(
            f"the pass {current!r} needs data, so that a dry run cannot tell what it makes",
            hint="give the pass a method dry_run(self, graph), or leave the pass or --dry-run out",
        ) from None


def _is_off(step: Pass) -> bool:
    return isinstance(step, QuantizeCaches) and step.to == "off"
