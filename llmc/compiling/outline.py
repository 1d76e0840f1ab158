"""What an engine will consist of, told from its graph before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.ir.graph import Graph
from compiler.store import stored_ranks
from compiler.targets import Target
from llmc.compiling.disk_estimate import needed_bytes
from llmc.compiling.emit import check_targets, compute_capabilities
from runtime.engine_dir.engine_writer import check_disk_space


@dataclass(frozen=True)
class Outline:
    """What an engine will consist of.

    Attributes:
        plans: the names of the execution plans of the first rank, by target.
        needed: about how many bytes it takes on the disk while it is written.
        compute_capabilities: the GPUs that it will be for; none if for any device.
    """

    plans: Mapping[str, Sequence[str]]
    needed: int
    compute_capabilities: tuple[str, ...]


def checked_outline(graph: Graph, targets: Mapping[str, Target], place: Path) -> Outline:
    """The outline of the engine of a graph, which can be built and has space on its disk.

    Raises:
        GraphError: if the graph cannot be cut into its ranks.
        TargetError: if a target cannot run the graph, naming the ops.
        EngineError: if the disk has no space for it.
    """
    ranks = stored_ranks(graph)
    plans = check_targets(graph, ranks, targets)
    needed = needed_bytes(ranks, targets)
    check_disk_space(nearest_folder(place), needed)
    return Outline(plans, needed, compute_capabilities(ranks[0], targets))


def nearest_folder(place: Path) -> Path:
    """The folder that a path lies in, as far as there is one."""
    return next(folder for folder in place.parents if folder.exists())
