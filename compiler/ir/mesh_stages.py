"""Cutting the graph of one pipeline stage out of the graph of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compiler.errors import GraphError
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value, with_operands

# An input `recv.S.NAME` is the value NAME from stage S, an output `send.S.NAME` is the value NAME for stage S.
RECEIVE = "recv."
SEND = "send."


def peer_stage(name: str) -> int:
    """The stage S of `recv.S.NAME` or `send.S.NAME`."""
    return int(name.split(".", 2)[1])


def value_stages(graph: Graph) -> dict[str, int]:
    """The stage of each result: where the latest transfer that it depends on went; 0 if it depends on none."""
    stages: dict[str, int] = {}
    for op in graph.ops:
        if op.kind.name == "transfer":
            stage = int(op.attrs["stage"])
        else:
            stage = max([stages.get(value.name, 0) for value in op.operands], default=0)
        stages.update((value.name, stage) for value in op.results)
    return stages


def stage_graph(graph: Graph, stage: int) -> Graph:
    """The ops of a stage, with what it is sent as inputs and what it sends as outputs.

    Raises:
        GraphError: if it uses what another stage computes, and no transfer brings it; or if it computes nothing.
    """
    stages = value_stages(graph)
    outputs = {role: value for role, value in graph.outputs.items() if stages.get(value.name, 0) == stage}
    for op in graph.find("transfer"):
        sent = op.operands[0]
        if stages.get(sent.name, 0) == stage:
            outputs[f"{SEND}{op.attrs['stage']}.{sent.name}"] = sent
    kept = _needed(graph, stage, outputs, stages)
    ops: list[Op] = []
    arrived: dict[str, Value] = {}
    used = {value.name for value in outputs.values()}
    for op in graph.ops:
        if op.name not in kept:
            continue
        used.update(value.name for value in op.operands)
        if op.kind.name == "transfer":
            source = op.operands[0]
            name = f"{RECEIVE}{stages.get(source.name, 0)}.{source.name}"
            arrived[op.name] = Value(name, op.result.type)
        else:
            ops.append(with_operands(op, tuple([arrived.get(value.name, value) for value in op.operands])))
    if not any(op.operands for op in ops):
        raise _nothing_to_compute(graph, stage)
    inputs = tuple(value for value in graph.inputs if value.name in used and _is_own(graph, value, stage, stages))
    return replace(
        graph,
        inputs=(*inputs, *dict.fromkeys(arrived.values())),
        ops=tuple(ops),
        outputs=FrozenDict({role: arrived.get(value.name, value) for role, value in outputs.items()}),
    )


def _nothing_to_compute(graph: Graph, stage: int) -> GraphError:
    arrivals = [op for op in graph.find("transfer") if op.attrs["stage"] == stage]
    if arrivals:
        op = arrivals[0]
        why = f"nothing uses {op.kind.name} %{op.name} from {op.origin}, which brings it %{op.operands[0].name}"
    else:
        why = "no transfer goes to it"
    return GraphError(
        f"stage {stage} has nothing to compute: {why}",
        hint="cut the model into fewer stages (pp=N), or let no pass after pp take away what a stage receives",
    )


def _needed(graph: Graph, stage: int, outputs: Mapping[str, Value], stages: Mapping[str, int]) -> set[str]:
    """The names of the ops that the outputs need, back to what is sent to the stage."""
    needed = {value.name for value in outputs.values()}
    kept: set[str] = set()
    for op in reversed(graph.ops):
        if needed.isdisjoint([value.name for value in op.results]):
            continue
        kept.add(op.name)
        if op.kind.name == "transfer" and op.attrs["stage"] == stage:
            continue
        for value in op.operands:
            if stages.get(value.name, 0) not in (0, stage) or not _is_own(graph, value, stage, stages):
                raise GraphError(
                    f"{op.kind.name} %{op.name} from {op.origin} is computed in stage {stage}, "
                    f"but %{value.name} is not there",
                    hint="what one stage computes for another goes through a transfer",
                )
            needed.add(value.name)
    return kept


def _is_own(graph: Graph, value: Value, stage: int, stages: Mapping[str, int]) -> bool:
    """False for a cache that another stage keeps."""
    if value.name in graph.producers:
        return True
    successor = graph.outputs.get(value.name)
    return successor is None or stages.get(successor.name, 0) == stage
