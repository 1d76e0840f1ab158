"""From the last graph to the files of every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compiler.backend_trt import BuildOptions, able, build_plans, check_plans
from compiler.backend_trt.options import DEFAULT_CAPABILITIES
from compiler.backend_trt.progress import shared_progress
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from compiler.store import emit_torch, stored_ranks
from compiler.store.constant_loader import constant_loader
from compiler.store.write_ranks import EmittedRank
from compiler.trt_network.library import load_library
from llmc.compiling.op_parts import require_parts
from llmc.progress import Report, Stage
from runtime.engine_dir.manifest import RankFiles


def check_targets(
    graph: Graph, ranks: Sequence[Graph], targets: Sequence[str], options: BuildOptions
) -> list[tuple[str, ...]]:
    """The names of the plans that each rank gets for each TensorRT target; nothing is read or written.

    Args:
        graph: the graph of all ranks, after all passes.
        ranks: the graph of each rank, as it will be stored.
        targets: the targets.
        options: how TensorRT engines are built.

    Raises:
        TargetError: if a target cannot run the graphs, naming the ops, or the GPU, and the mend.
    """
    mesh = mesh_of(graph)
    require_parts(graph, [ranks[mesh.rank(stage, 0)] for stage in range(mesh.pp)])  # the ranks of a stage are alike
    if not set(targets) - {"torch"}:
        return [()] * len(ranks)
    return [tuple(spec.name for spec in check_plans(rank, options)) for rank in ranks]


def capabilities(graph: Graph, options: BuildOptions) -> tuple[str, ...]:
    """The compute capabilities that TensorRT engines of a graph are for."""
    usual = (one for one in able(stored_ranks(graph)[0]) if one in DEFAULT_CAPABILITIES)
    return options.compute_capabilities or tuple(usual)


def emit(
    graph: Graph, targets: Sequence[str], folder: Path, *, options: BuildOptions, stage: Stage
) -> dict[str, tuple[RankFiles, ...]]:
    """Write the files of every target into `folder`; returns each rank's by role.

    All targets share one graph and one file of weights, so `torch` can run every engine and is always among them.

    Raises:
        CheckpointError: if the checkpoint's files cannot be read.
        TargetError: if a target cannot be built.
        OSError: if the folder cannot be written.
    """
    with stage("weights") as report:
        ranks = emit_torch(graph, folder, progress=report)
    shared = [{"graph": rank.graph_file, "weights": rank.weights_file} for rank in ranks]
    files: dict[str, tuple[RankFiles, ...]] = {"torch": tuple(shared)}
    for target in targets:
        if target != "torch":
            with stage(f"build {target}") as report:
                reports = shared_progress(report, len(ranks))
                built = [_build(target, rank, folder, options, own) for rank, own in zip(ranks, reports, strict=True)]
            files[target] = tuple({**own, "plans": plans} for own, plans in zip(shared, built, strict=True))
    return files


def _build(target: str, emitted: EmittedRank, folder: Path, options: BuildOptions, report: Report) -> str:
    graph = replace(emitted.graph, root=str(folder))
    return build_plans(
        load_library(target), graph, constant_loader(graph), folder, emitted.weights_file,
        name=f"rank{emitted.rank}.{target}", options=options, progress=report,
    )  # fmt: skip
