"""Finding the first operation whose value differs between two computations of the same model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from compiler.ir.chunks import in_chunks
from compiler.ir.graph import Graph
from compiler.ir.step import Step
from llmc.verification.instrumented import WatchedInterpreter
from llmc.verification.padded import PaddedForm
from llmc.verification.report import Divergence
from llmc.verification.test_cases import TestCase
from llmc.verification.valid_mask import Extent, value_error


def first_divergence(
    found: WatchedInterpreter,
    expected: WatchedInterpreter,
    graph: Graph,
    test_case: TestCase,
    *,
    what: str,
    tolerance: float,
) -> Divergence | None:
    """The first value, step by step and in the order of `graph`, that is off by more than `tolerance`.

    Args:
        found: what is in doubt; its tokens are followed.
        expected: what is right.
        graph: names and orders the values; those that either side does not have are passed over.
        test_case: the requests to run.
        what: what the two are, for the report.
        tolerance: the largest relative error (RMS over RMS) that passes.
    """
    pair = _Pair(found, expected, Differences(graph, what, tolerance))
    test_case.run(pair)
    return pair.divergence


class Differences:
    """Looks for differences between the values of a step.

    Args:
        graph: names and orders the values; its dims must be symbols.
        what: what is compared, for the report.
        tolerance: the largest relative error that passes.
    """

    def __init__(self, graph: Graph, what: str, tolerance: float) -> None:
        self._graph, self._what, self._tolerance = graph, what, tolerance
        self._form = PaddedForm(graph)

    def first(
        self, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], step: Step, number: int, plan: str = ""
    ) -> Divergence | None:
        """The first value that is off; those that either side does not have are passed over.

        Args:
            found: the values in doubt, by name, as in a padded step.
            expected: the right ones, likewise.
            step: the step, which says which parts of them mean something.
            number: the number of the step, for the report.
            plan: the plan that ran, for the report.
        """
        errors: dict[str, float] = {}
        for op in self._graph.ops:
            for value in op.results:
                type_ = self._form.types.get(value.name)
                if type_ is None or value.name not in found or value.name not in expected:
                    continue
                a, b = found[value.name], expected[value.name]
                error = errors[value.name] = value_error(a, b, Extent(type_, self._form.capacity, step))
                if error > self._tolerance:
                    operands = max((errors.get(operand.name, 0.0) for operand in op.operands), default=0.0)
                    return Divergence(
                        found=self._what,
                        op=value.name,
                        kind=op.kind.name,
                        origin=op.origin.module,
                        step=number,
                        error=error,
                        operands_error=operands,
                        shape=tuple(a.shape),
                        reference_shape=tuple(b.shape),
                        plan=plan,
                    )
        return None


class _Pair:
    """An executor that runs two side by side, until a value differs."""

    name = "pair"

    def __init__(self, found: WatchedInterpreter, expected: WatchedInterpreter, differences: Differences) -> None:
        self.found, self.expected, self.differences = found, expected, differences
        self.steps = 0
        self.divergence: Divergence | None = None

    def open(self, batch: int, capacity: int) -> _PairSession:
        return _PairSession(self, batch, capacity)

    def compare(self, step: Step) -> None:
        """Look for the first value that differs, of those that were computed since the last call."""
        found, expected = self.found.values_of(step), self.expected.values_of(step)
        self.divergence = self.differences.first(found, expected, step, self.steps)


class _PairSession:
    def __init__(self, pair: _Pair, batch: int, capacity: int) -> None:
        self.batch, self.capacity = batch, capacity
        self._pair = pair
        opened = pair.found.open(batch, capacity), pair.expected.open(batch, capacity)
        self._sessions = tuple(session.rows for session in opened)
        # Both are given the same chunks, so that their values can be compared.
        self._chunk = min(session.chunk for session in opened)

    def step(self, step: Step, first_row: int = 0) -> Tensor:
        logits = in_chunks(step, self._chunk, lambda chunk: self._run(chunk, first_row))
        self._pair.steps += 1
        return logits

    def copy_rows(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        for session in self._sessions:
            session.copy_rows(sources, destinations)

    def _run(self, step: Step, first_row: int) -> Tensor:
        found, expected = self._sessions
        logits = found.step(step, first_row)
        if self._pair.divergence is None:
            expected.step(step, first_row)
            self._pair.compare(step)
        return logits
