"""The largest values of caches on calibration data, from which their scales come."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from compiler.errors import PassError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.passes.quant.calibration.layerwise import LayerwiseCalibration
from compiler.passes.quant.calibration.source import CalibrationSource
from compiler.passes.quant.store import ResultStore


def cache_scales(graph: Graph, calibration: CalibrationSource) -> dict[str, Tensor]:
    """The largest absolute value that each head of each cache holds: cache's name → float32 `[heads]`.

    Raises:
        PassError: if the graph has no caches, the calibration text does not do, or a value is NaN or infinite.
    """
    caches = {graph.outputs[name].name: name for name, _ in graph.states().items()}
    updates = [op for op in graph.find("kv_update") if op.name in caches]
    if not updates:
        raise PassError("the graph has no caches to quantize", hint="leave kv out of --passes")
    windows = calibration.windows(graph)
    store = ResultStore(graph, windows, "caches")
    if store.note is None:
        found = _measure(graph, updates, calibration, windows)
        store.finish({caches[name]: largest.tolist() for name, largest in found.items()})
    note = json.loads(json.dumps(store.note))
    return {caches[op.name]: torch.tensor(note[caches[op.name]], dtype=torch.float32) for op in updates}


def _measure(graph: Graph, updates: Sequence[Op], calibration: CalibrationSource, windows: Tensor) -> dict[str, Tensor]:
    sources = {op.operands[1].name: op for op in updates}
    found: dict[str, Tensor] = {}

    def observe(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        for value, tensor in zip(op.results, results, strict=True):
            if (update := sources.get(value.name)) is None:
                continue
            largest = tensor.float().abs().amax((LINEAR.ROW, LINEAR.POSITION, LINEAR.WIDTH)).cpu()
            if not bool(largest.isfinite().all()):
                raise PassError(
                    f"what {update.origin.module or update.name} puts into its cache is NaN or infinite",
                    hint="its weights may be damaged, or float16 too narrow: try --dtype bfloat16 or float32",
                )
            found[update.name] = torch.maximum(found.get(update.name, largest), largest)

    layerwise = LayerwiseCalibration(graph, windows, calibration.place, calibration.progress, observers=[observe])
    layerwise.run([], lambda view: None, [op.operands[1] for op in updates])
    return found
