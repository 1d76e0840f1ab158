"""The tables of `llmc inspect --cost`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from llmc.cli.console import grid

if TYPE_CHECKING:
    from compiler.ir.cost import Cost, OpCost, StepCost
    from llmc.inspection.cost import CostReport, Step
    from llmc.step_cost import Device

_HEADS = ("FLOPs", "weights", "caches", "activations", "written", "FLOPs/byte")


def cost_text(reports: Sequence[CostReport], device: Device | None, *, ops: bool = False) -> str:
    """A table for each step, of its layers or its ops, and the bound; of several graphs, a line for each.

    Args:
        reports: of the graphs.
        device: whose bound is told; None for none.
        ops: whether to list each op.
    """
    if len(reports) > 1:
        return _overview(reports, device)
    report = reports[0]
    return "\n\n".join(_step_text(report, step, device, ops=ops) for step in report.steps)


def _overview(reports: Sequence[CostReport], device: Device | None) -> str:
    rows = []
    for report in reports:
        for step in report.steps:
            of_all = _sum(rank.total for rank in step.ranks)
            bound = [_time(step.bound(device).seconds)] if device else []
            rows.append((f"{report.name} {step.name}", *_cells(of_all), *bound))
    return grid(("", *_HEADS, *(["at least"] if device else [])), rows)


def _sum(costs: Iterable[Cost]) -> Cost:
    from compiler.ir.cost import total

    return total(costs)


def _step_text(report: CostReport, step: Step, device: Device | None, *, ops: bool) -> str:
    lines = [_title(report, step), ""]
    several = len(step.ranks) > 1
    for number, rank in enumerate(step.ranks):
        if number and rank.by_layer == step.ranks[number - 1].by_layer:
            lines += [f"rank {number}: as rank {number - 1}", ""]
            continue
        lines += [f"rank {number}:"] if several else []
        rows = _op_rows(rank, device) if ops else _layer_rows(rank, device)
        rows.append(("in all", *_cells(rank.total), *_one_by_one(rank.ops, device)))
        lines += [grid(("", *_HEADS, *(["at least", "bound by"] if device else [])), rows), ""]
        if rank.total.sent:
            from compiler.sizes import bytes_text

            lines += [f"sent to other ranks: {bytes_text(rank.total.sent)}", ""]
    lines += [_bound_text(step, device)] if device else []
    return "\n".join(lines).rstrip()


def _title(report: CostReport, step: Step) -> str:
    if step.name == "graph":
        return f"{report.name}, each op once:"
    many = "sequence" if report.batch == 1 else "sequences"
    if step.name == "decode":
        return f"one more token of {report.batch} {many}, each of which then has {report.length}:"
    return f"prompts of {step.new} tokens, of {report.batch} {many}:"


def _layer_rows(rank: StepCost, device: Device | None) -> list[tuple[str, ...]]:
    """A row for each layer; those that follow each other and cost the same share one."""
    ops = _ops_by_layer(rank)
    return [
        (
            run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}, each",
            *_cells(rank.by_layer[run[0]]),
            *_one_by_one(ops[run[0]], device),
        )
        for run in _alike(rank.by_layer)
    ]


def _op_rows(rank: StepCost, device: Device | None) -> list[tuple[str, ...]]:
    """A row for each op that costs something; of layers that cost the same only those of the first."""
    from compiler.ir.cost import Cost

    rows: list[tuple[str, ...]] = []
    ops, width = _ops_by_layer(rank), len(_HEADS) + (2 if device else 0)
    for run in _alike(rank.by_layer):
        rows += [
            (f"{each.op.name} {each.op.kind.name}", *_cells(each.cost), *_one_by_one([each], device))
            for each in ops[run[0]]
            if each.cost != Cost()
        ]
        if len(run) > 1:
            to = f" to {run[-1]}" if len(run) > 2 else ""
            rows.append((f"{run[1]}{to} as {run[0]}", *[""] * width))
    return rows


def _ops_by_layer(rank: StepCost) -> dict[str, list[OpCost]]:
    from compiler.ir.layers import layer_of

    ops: dict[str, list[OpCost]] = {}
    for each in rank.ops:
        ops.setdefault(layer_of(each.op.name), []).append(each)
    return ops


def _alike(costs: Mapping[str, Cost]) -> list[list[str]]:
    """The layers, those together that follow each other and cost the same."""
    from compiler.ir.layers import layer_number

    runs: list[list[str]] = []
    for layer, cost in costs.items():
        last = runs[-1][-1] if runs else layer
        numbered = layer_number(layer) is not None and layer_number(last) is not None
        if runs and numbered and costs[last] == cost:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return runs


def _cells(cost: Cost) -> tuple[str, ...]:
    from compiler.sizes import bytes_text, count_text

    sizes = (cost.weights, cost.caches, cost.activations, cost.written)
    return count_text(cost.flops), *map(bytes_text, sizes), f"{cost.intensity:.3g}"


def _one_by_one(ops: Sequence[OpCost], device: Device | None) -> tuple[str, ...]:
    """The least time of ops that run one after the other, and what most of it is for."""
    if device is None:
        return ()
    from llmc.inspection.cost import op_bound

    bounds = [op_bound(each, device) for each in ops]
    seconds = {by: sum(bound.seconds for bound in bounds if bound.by == by) for by in ("memory", "compute")}
    return _time(sum(seconds.values())), max(seconds, key=lambda by: seconds[by])


def _bound_text(step: Step, device: Device) -> str:
    from compiler.sizes import bytes_text

    bound = step.bound(device)
    return (
        f"{device.key} ({device.source}, {bytes_text(device.bytes_per_second)}/s): {_time(bound.seconds)} or more by "
        f"{bound.by}, however well ops are fused (memory {_time(bound.memory)}, compute {_time(bound.compute)})"
    )


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
