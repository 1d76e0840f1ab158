"""Finding the first operation whose value differs between two computations of the same model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compiler.ir.dims import Dim, symbol
from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.ir.types import TensorType
from llmc.comparing import relative_error
from llmc.trials import Trial
from llmc.verification import Divergence
from llmc.watching import Watched
from runtime.executor import Session


def first_divergence(
    found: Watched, expected: Watched, graph: Graph, trial: Trial, *, what: str, tolerance: float
) -> Divergence | None:
    """The first value, step by step and in the order of `graph`, that is off by more than `tolerance`.

    Args:
        found: what is in doubt; its tokens are followed.
        expected: what is right.
        graph: names and orders the values; those that either side does not have are passed over.
        trial: the requests to run.
        what: what the two are, for the report.
        tolerance: the largest relative error (RMS over RMS) that passes.
    """
    pair = _Pair(found, expected, graph, what, tolerance)
    trial.run(pair)
    return pair.divergence


class _Pair:
    """An executor that runs two side by side, until a value differs."""

    name = "pair"

    def __init__(self, found: Watched, expected: Watched, graph: Graph, what: str, tolerance: float) -> None:
        self.found, self.expected, self.graph = found, expected, graph
        self.what, self.tolerance = what, tolerance
        self.capacity = next((value.type.shape[2] for value, _ in graph.states().values() if value.type.rank > 2), None)
        self.steps = 0
        self.divergence: Divergence | None = None

    def open(self, batch: int, capacity: int) -> _PairSession:
        return _PairSession(self, batch, capacity)

    def compare(self, past_len: Tensor, new_len: Tensor) -> None:
        """Look for the first value of the latest step that differs."""
        found, expected = self.found.take_values(), self.expected.take_values()
        errors: dict[str, float] = {}
        for op in self.graph.ops:
            for value in op.results:
                if value.name in found and value.name in expected:
                    a, b = found[value.name], expected[value.name]
                    errors[value.name] = _error(a, b, _Extent(value.type, self.capacity, past_len, new_len))
                    if errors[value.name] > self.tolerance:
                        self.divergence = self._divergence(op, value.name, errors, a, b)
                        return
        self.steps += 1

    def _divergence(
        self, op: Op, name: str, errors: Mapping[str, float], found: Tensor, expected: Tensor
    ) -> Divergence:
        return Divergence(
            found=self.what,
            op=name,
            kind=op.kind.name,
            origin=op.origin.module,
            step=self.steps,
            error=errors[name],
            operands_error=max((errors.get(operand.name, 0.0) for operand in op.operands), default=0.0),
            shape=tuple(found.shape),
            reference_shape=tuple(expected.shape),
        )


class _PairSession:
    def __init__(self, pair: _Pair, batch: int, capacity: int) -> None:
        self.batch, self.capacity = batch, capacity
        self._pair = pair
        self._sessions: tuple[Session, Session] = pair.found.open(batch, capacity), pair.expected.open(batch, capacity)

    def step(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor) -> Tensor:
        found, expected = self._sessions
        logits = found.step(token_ids, past_len, new_len, logit_pos)
        if self._pair.divergence is None:
            expected.step(token_ids, past_len, new_len, logit_pos)
            self._pair.compare(past_len, new_len)
        return logits


class _Extent:
    """Which elements of a value depend on tokens: not padding, nor the unused ends of caches, nor rows without tokens.

    Args:
        type_: the value's type.
        capacity: the dim that counts the places of a cache, a symbol or a number; None if there are no caches.
        past_len: `i32[B]`, the tokens of each row before the step.
        new_len: `i32[B]`, the tokens of each row in the step.
    """

    def __init__(self, type_: TensorType, capacity: Dim | None, past_len: Tensor, new_len: Tensor) -> None:
        self._type, self._new, self._total = type_, new_len, past_len + new_len
        self.capacity_axes = [axis for axis, dim in enumerate(type_.shape) if dim == capacity]

    def mask(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor of bools that broadcasts to `shape`."""

        def along(axis: int, values: Tensor) -> Tensor:
            return values.view([-1 if at == axis else 1 for at in range(len(shape))])

        live = torch.ones([1] * len(shape), dtype=torch.bool)
        if symbol("B") not in self._type.shape:
            return live
        rows = self._type.shape.index(symbol("B"))
        live = live & along(rows, self._new > 0)
        limits = [(axis, self._new) for axis, dim in enumerate(self._type.shape) if dim == symbol("S")]
        for axis, limit in [*limits, *((axis, self._total) for axis in self.capacity_axes)]:
            live = live & (along(axis, torch.arange(shape[axis])) < along(rows, limit))
        return live


def _error(found: Tensor, expected: Tensor, extent: _Extent) -> float:
    """The relative error of a value where it means something; infinite if the shapes do not match.

    Caches may be longer than the sequences, by different amounts: what both have is compared.
    """
    a, b = found.double().cpu(), expected.double().cpu()
    if a.dim() != b.dim():
        return math.inf
    for axis in extent.capacity_axes:
        size = min(a.shape[axis], b.shape[axis])
        a, b = a.narrow(axis, 0, size), b.narrow(axis, 0, size)
    if a.shape != b.shape:
        return math.inf
    live = extent.mask(tuple(b.shape))
    return relative_error(torch.where(live, a, 0.0), torch.where(live, b, 0.0))
