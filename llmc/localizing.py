"""Naming the operation at which a failed engine goes wrong."""

from __future__ import annotations

from compiler.ir.graph import Graph
from llmc.divergence import first_divergence
from llmc.trials import Trial
from llmc.verification import Divergence
from llmc.watching import Watched, WatchedEmulator, WatchedInterpreter
from runtime.engine import Engine


def locate(
    engine: Engine, own: Graph, reference: Graph | None, trial: Trial, tolerance: float
) -> tuple[Divergence | None, str | None]:
    """The first operation that differs, and a sentence if there is something to say about where it is or is not.

    What executes the graph is compared with the engine's own graph, then that graph with the reference.

    Args:
        engine: the engine that failed.
        own: its graph.
        reference: another graph that it was compared with; None if there is none.
        trial: the requests that it failed at.
        tolerance: the largest relative error of a value that passes.
    """
    watched = _watched(engine, own)
    if watched is not None:
        what = f"the {watched.name} and the engine's own graph"
        found = first_divergence(watched, WatchedInterpreter(own), own, trial, what=what, tolerance=tolerance)
        if found is not None:
            return found, None
    if reference is not None:
        what = "the engine's own graph, with its weights, and the reference"
        right = WatchedInterpreter(reference)
        found = first_divergence(WatchedInterpreter(own), right, own, trial, what=what, tolerance=tolerance)
        if found is not None:
            return found, None
    return None, _unfound(engine, watched)


def _watched(engine: Engine, own: Graph) -> Watched | None:
    """The emulator on the engine's network, if its executor runs one; None otherwise."""
    for name, ranks in engine.manifest.targets.items():
        if engine.executor.name in (name, "emulator") and "network" in ranks[0]:
            return WatchedEmulator(engine.path, ranks[0]["network"], own)
    return None


def _unfound(engine: Engine, watched: Watched | None) -> str:
    if watched is None:
        return (
            f"the {engine.executor.name} executor runs the whole graph as one program, so the operation that differs "
            "cannot be named; --against MODEL compares the graph, too"
        )
    if watched.name != engine.executor.name:
        return f"the {watched.name} computes every operation right: {engine.executor.name} itself differs"
    return "no single operation is off by more than the tolerance"
