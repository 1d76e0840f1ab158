"""What rounding caches loses on calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import dequantize, quantize
from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.passes.quant.calibration.layerwise import LayerwiseCalibration
from compiler.passes.quant.calibration.source import CalibrationSource


def cache_errors(
    graph: Graph, calibration: CalibrationSource, scales: Mapping[str, Tensor], dtype: DType
) -> dict[str, float]:
    """The relative error of each cache: the norm of what rounding changes, as a part of the norm of what is written.

    Args:
        graph: the graph, its caches not quantized.
        calibration: gives the data.
        scales: the scales of each cache's heads, `[heads]` or `[1]`, by the cache's name.
        dtype: i8 or f8e4m3.

    Raises:
        PassError: if the calibration text does not do.
    """
    updates = {name: graph.producers[graph.outputs[name].name] for name in scales}
    written = {op.operands[1].name: name for name, op in updates.items()}
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in scales}

    def observe(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        for value, tensor in zip(op.results, results, strict=True):
            if (name := written.get(value.name)) is not None:
                sums[name] += _squares(tensor.float(), scales[name].to(tensor.device), dtype).cpu()

    layerwise = LayerwiseCalibration(
        graph, calibration.windows(graph), calibration.place, calibration.progress, observers=[observe]
    )
    layerwise.run([], lambda view: None, [op.operands[1] for op in updates.values()])
    return {name: float((lost / total.clamp(min=1e-30)).sqrt()) for name, (lost, total) in sums.items()}


def _squares(x: Tensor, scale: Tensor, dtype: DType) -> Tensor:
    """The sums of squares of the error of `x`, which a step adds to a cache, and of `x`."""
    scale = LINEAR.along(scale, LINEAR.HEAD)
    rounded = dequantize(quantize(x, scale, None, dtype), scale, None)
    return torch.stack([(rounded - x).double().square().sum(), x.double().square().sum()])
