"""Constants: which values are constant, and their values, evaluated one weight at a time.

A weight is an ordinary op over the tensors of a checkpoint (a slice of a fused tensor, a cast, a shard ...). Targets
ask for the constants that running ops use; those are computed in the order in which their sources lie in the files,
and every intermediate tensor is freed after its last use, so that memory is bounded by the largest weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

import torch
from torch import Tensor

from compiler.ir.analysis import last_uses, stored_values
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Op, Value


def needed_constants(graph: Graph) -> list[Value]:
    """The constants that ops at run time (or outputs) use, in the order in which their sources lie in the files.

    Literals are not among them: they stay in the graph. Of a quantized weight it is the integers and the scales.
    """
    constant = stored_values(graph)
    used: dict[str, Value] = {}
    for op in graph.ops:
        if op.results[0].name not in constant:
            used.update((value.name, value) for value in op.operands if value.name in constant)
    used.update((value.name, value) for value in graph.outputs.values() if value.name in constant)
    wanted = [v for v in used.values() if graph.producers[v.name].kind.name != "literal"]
    places = _source_places(graph, constant)
    return sorted(wanted, key=lambda value: places[value.name])


def stream_constants(graph: Graph) -> Iterator[tuple[Value, Tensor]]:
    """Each needed constant with its value, contiguous and in the graph's type, computed as the iterator advances.

    The order is that of `needed_constants`, except that the results of one split come together.

    Raises:
        CheckpointError: if a file cannot be read.
    """
    wanted = needed_constants(graph)
    schedule = _schedule(graph, wanted)
    plan = graph.with_ops(tuple(schedule), {value.name: value for value in wanted})
    interpreter = Interpreter(plan)
    pending = {value.name: value for value in wanted}
    dead_after = last_uses(plan.with_ops(plan.ops, {}))
    values: dict[str, Tensor] = {}
    for op, dead in zip(plan.ops, dead_after, strict=True):
        with torch.no_grad():
            results = interpreter.evaluate(op, [values[value.name] for value in op.operands], {})
        values.update((value.name, tensor) for value, tensor in zip(op.results, results, strict=True))
        for value in op.results:
            if value.name in pending:
                yield pending.pop(value.name), values[value.name].contiguous()
        for name in dead:
            del values[name]


def _source_places(graph: Graph, constant: Set[str]) -> dict[str, tuple[str, int]]:
    """For each constant value the file and offset of the first tensor that it is made of."""
    places: dict[str, tuple[str, int]] = {}
    for op in graph.ops:
        if op.results[0].name not in constant:
            continue
        if op.kind.name == "const":
            place = (op.attrs["data"].file, op.attrs["data"].offset)
        else:
            place = min((places[value.name] for value in op.operands), default=("", 0))
        places.update((value.name, place) for value in op.results)
    return places


def _schedule(graph: Graph, wanted: list[Value]) -> list[Op]:
    """The ops behind `wanted`, each as late as its first use allows."""
    schedule: dict[str, Op] = {}
    for root in wanted:
        stack = [graph.producers[root.name]]
        while stack:
            op = stack[-1]
            missing = [graph.producers[v.name] for v in op.operands if graph.producers[v.name].name not in schedule]
            if missing:
                stack.extend(reversed(missing))
                continue
            schedule[stack.pop().name] = op
    return list(schedule.values())
