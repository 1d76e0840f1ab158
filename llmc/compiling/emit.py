"""From the last graph to the files of every target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from compiler.ir.graph import Graph
from compiler.progress import shared_progress
from compiler.store import write_ranks
from compiler.targets import Target
from compiler.targets.op_parts import require_evaluators
from llmc.progress import OpenPhase
from runtime.engine_dir.manifest import RankFiles

Targets = Mapping[str, Target]


def check_targets(graph: Graph, ranks: Sequence[Graph], targets: Targets) -> dict[str, Sequence[str]]:
    """The names of the execution plans that the first rank gets for each target that has any; nothing is read.

    Args:
        graph: the graph of all ranks, after all passes.
        ranks: the graph of each rank, as it will be stored.
        targets: the targets, by name.

    Raises:
        TargetError: if a target cannot run the graphs, naming the ops, or the GPU, and the mend.
    """
    require_evaluators(graph)
    plans = {name: [target.check(rank) for rank in ranks] for name, target in targets.items()}
    return {name: of_ranks[0] for name, of_ranks in plans.items() if any(of_ranks)}


def compute_capabilities(graph: Graph, targets: Targets) -> tuple[str, ...]:
    """The compute capabilities of the GPUs that a rank's files are for; none if they are for any device."""
    return tuple(dict.fromkeys(chain(*(target.compute_capabilities_of(graph) for target in targets.values()))))


def emit(graph: Graph, targets: Targets, folder: Path, *, phase: OpenPhase) -> dict[str, tuple[RankFiles, ...]]:
    """Write the files of every target into `folder`; returns each rank's by what they are for.

    All targets share one graph and one file of weights.

    Raises:
        CheckpointError: if the checkpoint's files cannot be read.
        TargetError: if a target cannot be built.
        OSError: if the folder cannot be written.
    """
    with phase("weights") as report:
        ranks = write_ranks(graph, folder, progress=report)
    shared = [{"graph": rank.graph_file, "weights": rank.weights_file} for rank in ranks]
    files: dict[str, tuple[RankFiles, ...]] = {}
    for name, target in targets.items():
        if target.always:
            files[name] = tuple(shared)
            continue
        with phase(f"build {name}") as report:
            reports = shared_progress(report, len(ranks))
            own = [target.emit(rank, folder, each) for rank, each in zip(ranks, reports, strict=True)]
        files[name] = tuple({**both, **more} for both, more in zip(shared, own, strict=True))
    return files
