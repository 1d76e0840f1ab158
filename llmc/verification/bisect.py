"""Naming the operation at which a failed engine goes wrong."""

from __future__ import annotations

from compiler.ir.graph import Graph
from llmc.verification.graph_bisect import first_divergence
from llmc.verification.instrumented import WatchedInterpreter
from llmc.verification.plan_bisect import first_plan_divergence
from llmc.verification.report import Divergence
from llmc.verification.test_cases import TestCase
from runtime.generation.engine import Engine


def locate(
    engine: Engine, own: Graph, reference: Graph | None, test_case: TestCase, tolerance: float
) -> tuple[Divergence | None, str | None]:
    """The first operation that differs, and a sentence if there is something to say about where it is or is not.

    Plans, if they execute the graph, are compared with the engine's own graph, then that graph with the reference.

    Args:
        engine: the engine that failed.
        own: its graph.
        reference: another graph that it was compared with; None if there is none.
        test_case: the requests that it failed at, and the plans.
        tolerance: the largest relative error of a value that passes.
    """
    plans = _plans_file(engine)
    if plans is not None:
        what = "the emulator and the engine's own graph"
        found = first_plan_divergence(engine.path, plans, own, test_case, what=what, tolerance=tolerance)
        if found is not None:
            return found, None
    if reference is not None:
        what = "the engine's own graph, with its weights, and the reference"
        ours, right = WatchedInterpreter(own), WatchedInterpreter(reference)
        found = first_divergence(ours, right, own, test_case, what=what, tolerance=tolerance)
        if found is not None:
            return found, None
    return None, _unfound(engine.executor.name, emulated=plans is not None)


def _plans_file(engine: Engine) -> str | None:
    """The list of plans, if the engine's executor runs plans, real or emulated; None otherwise."""
    for name, ranks in engine.manifest.targets.items():
        if engine.executor.name in (name, "emulator") and "plans" in ranks[0]:
            return ranks[0]["plans"]
    return None


def _unfound(executor: str, *, emulated: bool) -> str:
    if not emulated:
        return (
            f"the {executor} executor runs the whole graph as one program, so the operation that differs "
            "cannot be named; --against MODEL compares the graph, too"
        )
    if executor != "emulator":
        return f"the emulator computes every operation right: {executor} itself differs"
    return "no single operation is off by more than the tolerance"
