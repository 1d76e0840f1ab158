"""Trying a pipeline before it calibrates: what cannot work is said at once, not after minutes of calibration.

For the rehearsal each pass that calibrates is replaced by one that makes a graph of the same types from no data:
weights are rounded to the nearest value, and scales are placeholders. Nothing is computed, since weights are lazy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.ir.trace import Trace
from compiler.passes import Pass, PipelineResult, run_pipeline
from compiler.passes.pipeline import OnPass
from compiler.passes.quant import Quantize, QuantizeCaches
from compiler.passes.quant.caches.kv import quantize_caches
from compiler.passes.quant.calibration.source import CalibrationSource
from compiler.passes.quant.recipe import require_one_rank


class _NeedsDataError(PassError):
    """A pass of somebody else calibrates."""


class _NoData(CalibrationSource):
    """A calibration that has nothing to give."""

    @property
    def is_readable(self) -> bool:
        """No: what a pass would only like to measure, it leaves out."""
        return False

    def windows(self, graph: Graph) -> Tensor:
        """Raises."""
        raise _NeedsDataError("there is no data yet")


def calibrates(stages: Sequence[Pass]) -> bool:
    """Whether a pipeline has passes that may calibrate."""
    return any(isinstance(stage, Quantize) or _quantizes_caches(stage) for stage in stages)


def rehearse(
    graph: Graph,
    stages: Sequence[Pass],
    *,
    dump_dir: Path | None = None,
    on_pass: OnPass | None = None,
    trace: Trace | None = None,
) -> PipelineResult | None:
    """What a pipeline will make of a graph, in ops and types; None if that cannot be told without data.

    Args:
        graph: the graph.
        stages: the pipeline.
        dump_dir: as of `run_pipeline`.
        on_pass: as of `run_pipeline`.
        trace: as of `run_pipeline`.

    Raises:
        PassError: if a pass cannot be applied, as the pipeline itself would.
    """
    stand_ins = [_stand_in(stage) for stage in stages]
    try:
        with _NoData().active():
            return run_pipeline(graph, stand_ins, dump_dir=dump_dir, on_pass=on_pass, trace=trace or Trace())
    except _NeedsDataError:
        return None


def _stand_in(stage: Pass) -> Pass:
    if isinstance(stage, Quantize):
        return _nearest(stage)
    return _placeholders(stage) if _quantizes_caches(stage) else stage


def _quantizes_caches(stage: Pass) -> TypeGuard[QuantizeCaches]:
    return isinstance(stage, QuantizeCaches) and stage.to != "off"


def _nearest(stage: Any) -> Callable[[Graph], Graph]:
    """`stage`, a `quant`, without what it needs data for."""

    def quant(graph: Graph) -> Graph:
        require_one_rank(graph, "quant")
        quantized: Graph = stage.recipe.without_data().quantize(graph)
        return quantized

    return quant


def _placeholders(stage: QuantizeCaches) -> Callable[[Graph], Graph]:
    """The pass `kv` with scales of 1."""

    def kv(graph: Graph) -> Graph:
        require_one_rank(graph, "kv")
        return quantize_caches(graph, stage.dtype, {name: torch.ones(1) for name in graph.states()})

    return kv
