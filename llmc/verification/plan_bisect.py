"""Finding the first operation that a plan of a TensorRT engine computes otherwise than its graph says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.graph import Graph
from compiler.ir.specialize import bind_dims
from compiler.ir.step import LOGIT_POS, NEW_LEN, PAST_LEN, TOKEN_IDS, Step, all_positions
from compiler.trt_network.plans import read_plans
from compiler.trt_network.record import read_record
from llmc.verification.graph_bisect import Differences
from llmc.verification.instrumented import PlanRun, WatchedBackend, WatchedInterpreter
from llmc.verification.report import Divergence
from llmc.verification.test_cases import TestCase
from runtime.executors.interface import Session
from runtime.executors.tensorrt.executor import TensorRTExecutor
from runtime.executors.tensorrt.plan import Plan


def first_plan_divergence(
    folder: Path, plans_file: str, graph: Graph, test_case: TestCase, *, what: str, tolerance: float
) -> Divergence | None:
    """The first value of an emulated plan, run by run and in the order of `graph`, that is off.

    After each run of a plan, the graph is interpreted on the inputs of that run, its caches among them, at the plan's
    sizes. So both sides have the same shapes, and what one run got wrong does not spoil the comparison of the next.

    Args:
        folder: the engine directory.
        plans_file: the list of its plans.
        graph: the graph that the plans were made from, its dims symbols.
        test_case: the requests to run, and the plans to run them by; all if it names none.
        what: what the two sides are, for the report.
        tolerance: the largest relative error (RMS over RMS) that passes.

    Raises:
        LlmcError: if a plan cannot be read, or the emulator lacks one of its layers.
    """
    listed = read_plans(folder / plans_file)
    watch = _Watch(graph, Differences(graph, what, tolerance))
    files = [plan for plan in listed.plans if not test_case.plans or plan.name in test_case.plans]
    records = [read_record(folder / plan.network) for plan in files]
    wanted = {weight for record in records for weight in record.weights.values()}
    backend = WatchedBackend(folder, listed.weights, wanted, watch.compare)
    plans = [Plan(backend, *pair) for pair in zip(files, records, strict=True)]
    watch.executor = TensorRTExecutor(backend, plans, name=watch.name)
    test_case.run(watch)
    return watch.divergence


class _Watch:
    """The emulator as an executor that counts steps, and compares until a value differs."""

    name = "emulator"
    executor: TensorRTExecutor

    def __init__(self, graph: Graph, differences: Differences) -> None:
        self._graph, self._differences = graph, differences
        self._outputs = {role: value.name for role, value in graph.outputs.items() if role not in graph.states()}
        self._interpreters: dict[str, WatchedInterpreter] = {}
        self.steps = 0
        self.divergence: Divergence | None = None

    def open(self, batch: int, capacity: int) -> _WatchedSession:
        return _WatchedSession(self, self.executor.open(batch, capacity), batch, capacity)

    def compare(self, run: PlanRun) -> None:
        """Interpret what a plan has run, and look for the first value that differs."""
        if self.divergence is not None:
            return
        step = _step_of(run, self._graph)
        inputs = {**run.inputs, **step._asdict()}
        found = {self._outputs.get(name, name): value for name, value in run.values.items()}
        expected = self._interpreter(run.plan, inputs).run(inputs)
        self.divergence = self._differences.first(found, expected, step, self.steps, run.plan)

    def _interpreter(self, plan: str, inputs: dict[str, Tensor]) -> WatchedInterpreter:
        """The graph at the sizes of a plan, which may have longer caches than the graph has dims for."""
        if plan not in self._interpreters:
            sizes = {
                str(dim): size
                for value in self._graph.inputs
                for dim, size in zip(value.type.shape, inputs[value.name].shape, strict=True)
                if str(dim) in self._graph.dims
            }
            self._interpreters[plan] = WatchedInterpreter(bind_dims(self._graph, sizes))
        return self._interpreters[plan]


class _WatchedSession:
    def __init__(self, watch: _Watch, session: Session, batch: int, capacity: int) -> None:
        self.batch, self.capacity = batch, capacity
        self._watch, self._session = watch, session

    def step(self, step: Step, first_row: int = 0) -> Tensor:
        logits = self._session.step(step, first_row)
        self._watch.steps += 1
        return logits

    def copy_rows(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        self._session.copy_rows(sources, destinations)


def _step_of(run: PlanRun, graph: Graph) -> Step:
    """The step that a run is of: a plan lacks the arguments that it does not read.

    To a plan, padding is tokens like all others. What does not fit into the caches is dropped.
    """
    ids = run.inputs[TOKEN_IDS]
    past = run.inputs.get(PAST_LEN, ids.new_zeros(len(ids)))
    capacity = min(run.inputs[name].shape[LINEAR.POSITION] for name in graph.states())
    fitting = (capacity - past).clamp(0, ids.shape[1]).to(torch.int32)
    new = torch.minimum(run.inputs.get(NEW_LEN, fitting), fitting)
    return Step(ids, past, new, run.inputs.get(LOGIT_POS, all_positions(*ids.shape)))
