"""From the last graph to the files of every target."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compiler.backend_torch import emit_torch
from compiler.backend_torch.emit import EmittedRank
from compiler.backend_trt import BuildOptions, BuiltEngine, build_engine, fixed_capacity
from compiler.ir.files import write_graph
from compiler.ir.graph import Graph
from compiler.ir.op import Op, make_op, op_kind
from compiler.ir.tensor_ref import TensorRef
from compiler.trt.library import load_library
from llmc.progress import Report, Stage
from runtime.manifest import RankFiles
from runtime.torch_executor.executor import constant_loader

_SCRATCH = ".weights"


def emit(
    graph: Graph, targets: Sequence[str], folder: Path, *, options: BuildOptions, stage: Stage
) -> dict[str, tuple[RankFiles, ...]]:
    """Write the files of every target into `folder`; returns each rank's by role.

    The weights are computed once. If only TensorRT wants them they go to a scratch folder, which the build maps, and
    which is removed: the engine holds them.

    Raises:
        CheckpointError: if the checkpoint's files cannot be read.
        TargetError: if a target cannot be built.
        OSError: if the folder cannot be written.
    """
    weights = folder if "torch" in targets else folder / _SCRATCH
    weights.mkdir(exist_ok=True)
    with stage("weights") as report:
        emitted = emit_torch(graph, weights, progress=report)
    files: dict[str, tuple[RankFiles, ...]] = {}
    for target in targets:
        if target == "torch":
            files[target] = ({"graph": emitted.graph_file, "weights": emitted.weights_file},)
        else:
            with stage(f"build {target}") as report:
                files[target] = (_build(target, emitted, weights, folder, options, report),)
    if weights != folder:
        shutil.rmtree(weights)
    return files


def _build(
    target: str, emitted: EmittedRank, weights: Path, folder: Path, options: BuildOptions, report: Report
) -> RankFiles:
    graph = fixed_capacity(replace(emitted.graph, root=str(weights)))
    built = build_engine(
        load_library(target), graph, constant_loader(graph), folder, name=f"rank{emitted.rank}.{target}",
        options=options, progress=report,
    )  # fmt: skip
    graph_file = f"rank{emitted.rank}.{target}.ir"
    write_graph(_with_places(emitted.graph, built), folder / graph_file)
    return {**built.files, "graph": graph_file}


def _with_places(graph: Graph, built: BuiltEngine) -> Graph:
    """The graph whose constants are read from the engine's own files."""
    ops: list[Op] = []
    for op in graph.ops:
        place = built.places.get(op.name) if op.kind.name == "const" else None
        if place is None:
            ops.append(op)
            continue
        ref = TensorRef(op.result.type, op.name, place.file, place.offset)
        ops.append(make_op(op_kind("const"), (), {"data": ref}, (op.name,), op.origin))
    return replace(graph.with_ops(tuple(ops), graph.outputs), root=".")
