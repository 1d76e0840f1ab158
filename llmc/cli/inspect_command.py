"""`llmc inspect`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.errors import EngineError
from llmc.cli import options
from llmc.cli.console import note, table

if TYPE_CHECKING:
    from llmc.inspection.cost import CostReport
    from llmc.step_cost import Device


def inspect_command(
    path: Annotated[str, typer.Argument(help="A checkpoint, an engine, an .ir file, or a folder of dumps.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="List the layers of one of an engine's TensorRT plans, one per line.")
    ] = False,
    plan: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The TensorRT plan to show; if not given, the first for one token a row."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say how an engine runs: which operations together, and why the others not."),
    ] = False,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="With --explain: by which executor; all that run operations together if not given."
        ),
    ] = None,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost", help="Count the operations and bytes of a decode step and of a prompt, by layer, without running."
        ),
    ] = False,
    ops: Annotated[bool, typer.Option("--ops", help="With --cost: of each operation.")] = False,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="With --cost: of so many sequences; 1 if not given.")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --cost: of so many tokens each; the most that it takes if not given."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --cost: the least time on a device: h100, a100, l4, rtx-4090 ..."),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(metavar="BYTES", help="With --cost: the bytes a second of its memory, such as 3.35e12."),
    ] = None,
    flops: Annotated[
        float | None,
        typer.Option(metavar="FLOPS", help="With --cost: the operations a second that it computes, such as 989e12."),
    ] = None,
    json_output: options.Json = False,
    dummy_weights: options.DummyWeights = False,
    weights: options.Weights = None,
    weights_format: options.WeightsFormat = None,
    scales: options.Scales = None,
    plugin: options.Plugins = None,
    debug: options.Debug = False,
) -> None:
    """Show what a checkpoint, an engine or a graph is: size, types, operations, caches, limits, pipeline.

    Weights are not read: a checkpoint of any size answers at once. Of a TensorRT engine its plans are listed, too, and
    the network of one of them is shown; that does not need TensorRT. With --json, all of them are.

    \b
    llmc inspect examples/models/mpt-tiny
    llmc inspect my.engine --json
    llmc inspect my.engine --layers --plan decode-b1-c512
    llmc inspect my.engine --executor cuda --explain
    llmc inspect my.engine --cost --batch 8 --length 1024 --device h100
    llmc inspect dumps
    llmc inspect dumps/00-lift.ir
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from llmc.cli.cost_text import cost_text
    from llmc.inspection.cost import cost_reports
    from llmc.inspection.execution import explain_execution
    from llmc.inspection.facts import inspect_path, target_sections
    from llmc.step_cost import processor_of
    from runtime.load.ignored_options import Case, ignored_notes

    notes: list[str] = []
    source = {"weights": weights, "weights_format": weights_format, "scales": scales}
    asked = {"--ops": ops, **_given(batch=batch, length=length, device=device, bandwidth=bandwidth, flops=flops)}
    notes += ignored_notes(Case(not cost, "costs are told with --cost", asked))
    if cost:
        unused = {
            "--layers": layers,
            "--plan": plan is not None,
            "--explain": explain,
            "--executor": executor is not None,
        }
        notes += ignored_notes(Case(True, "costs are told alone", unused))
        processor = processor_of(device, bandwidth, flops)
        reports = cost_reports(
            path, batch=batch, length=length, dummy_weights=dummy_weights, source=source, note=notes.append
        )
        for said in notes:
            note(said)
        print(_cost_json(path, reports, processor, notes) if json_output else cost_text(reports, processor, ops=ops))
        return
    facts = inspect_path(path, dummy_weights=dummy_weights, source=source, layers=layers, note=notes.append)
    notes += ignored_notes(
        Case(json_output, "with --json all plans are shown", {"--plan": plan is not None}),
        Case(not explain, "only --explain asks an executor", {"--executor": executor is not None}),
    )
    executions = explain_execution(path, executor or "auto", note=notes.append) if explain else {}
    if explain:
        facts["execution"] = {name: each.to_json() for name, each in executions.items()}
    sections = {name: target for name, target in target_sections().items() if name in facts}
    rows = [row for name, target in sections.items() for row in target.fact_rows(facts[name], plan)]
    listed = [text for name, target in sections.items() if layers and (text := target.layer_lines(facts[name], plan))]
    if plan is not None and not sections:
        raise EngineError(f"there is no plan {plan!r}", hint=f"{path} has no execution plans: leave out --plan")
    for text in notes:
        note(text)
    if json_output:
        print(json.dumps({**facts, **({"notes": notes} if notes else {})}, indent=2))
    elif facts["kind"] == "dumps":
        print(table([("dumps", facts["path"]), *_dump_rows(facts["graphs"])]))
    elif listed or explain:
        told_of = [line for name, each in executions.items() for line in (f"by {name}:", *each.lines())]
        print("\n".join([*listed, *told_of]))
    else:
        told = {file for name, target in sections.items() for file in target.plan_files(facts[name])}
        print(table([*_rows(facts, told), *rows]))


def _given(**values: object) -> dict[str, bool]:
    """Which options were given, by the names that they have on the command line."""
    return {f"--{name}": value is not None for name, value in values.items()}


def _cost_json(path: str, reports: list[CostReport], processor: Device | None, notes: list[str]) -> str:
    """The object that docs/cli.md describes."""
    found: dict[str, Any] = {"kind": "cost", "path": path, "device": processor and processor.to_json()}
    found["graphs"] = [report.to_json(processor) for report in reports]
    return json.dumps({**found, **({"notes": notes} if notes else {})}, indent=2)


def _rows(facts: dict[str, Any], told: set[str]) -> list[tuple[str, str]]:
    """The rows of a table, without the files that are told of elsewhere."""
    from compiler.sizes import bytes_text, count_text

    model = facts["facts"]
    weights, cache = facts["weights"], facts["cache"]
    by_dtype = ", ".join(f"{dtype} {bytes_text(size)}" for dtype, size in weights["bytes_by_dtype"].items())
    ops = facts["ops"]
    a_token, at_limits = (bytes_text(cache[key]) for key in ("bytes_per_token", "bytes_at_limits"))
    rows = [(facts["kind"], facts["path"])]
    if "family" in model:
        rows.append(("family", str(model["family"])))
    if "parameters" in model:
        rows.append(("parameters", f"{count_text(model['parameters'])} ({model['parameters']:,})"))
    rows += [
        (name.replace("_", " "), str(value)) for name, value in model.items() if name not in ("family", "parameters")
    ]
    rows += [
        ("weights", f"{bytes_text(weights['bytes'])} in {weights['tensors']} tensors: {by_dtype or 'none'}"),
        ("ops", f"{sum(ops.values())}: " + ", ".join(f"{kind} {count}" for kind, count in ops.items())),
        ("dims", ", ".join(f"{name} {low}..{high}" for name, (low, _, high) in facts["dims"].items())),
        ("inputs", ", ".join(f"{name} {type_}" for name, type_ in facts["inputs"].items())),
        ("outputs", ", ".join(f"{name} {type_}" for name, type_ in facts["outputs"].items())),
        ("cache", f"{cache['states']} states, {a_token} a token, {at_limits} at the limits"),
    ]
    if facts["tasks"]:
        rows.append(("tasks", f"{'; '.join(map(_task, facts['tasks']))}; requests name one: --task NAME"))
    if facts["passes"]:
        rows.append(("passes", ", ".join(facts["passes"])))
    return rows + (_engine_rows(facts, told) if facts["kind"] == "engine" else [])


def _task(task: dict[str, Any]) -> str:
    """`sentiment (PROMPT_TUNING, 20 virtual tokens)`."""
    return f"{task['name']} ({task['kind']}, {task['virtual_tokens']} virtual tokens)"


def _dump_rows(graphs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """A row a graph: its size, and how many operations of which kinds it has more or fewer than the one before."""
    from compiler.sizes import bytes_text

    rows, before = [], None
    for graph in graphs:
        ops = graph["ops"]
        text = f"{sum(ops.values())} ops, weights {bytes_text(graph['weights']['bytes'])}"
        if before is not None:
            changes = {kind: ops.get(kind, 0) - before.get(kind, 0) for kind in {**before, **ops}}
            text += "".join(f", {kind} {change:+}" for kind, change in changes.items() if change)
        rows.append((f"  {graph['file']}", text))
        before = ops
    return rows


def _engine_rows(facts: dict[str, Any], told: set[str]) -> list[tuple[str, str]]:
    limits, source, mesh = facts["limits"], facts["source"], facts["mesh"]
    made_up = ", dummy weights" if source["dummy_weights"] else ""
    return [
        ("pipeline", facts["pipeline"]),
        *([("plug-ins", "; ".join(map(_plugin, facts["plugins"])))] if facts["plugins"] else []),
        ("limits", ", ".join(f"{name} {value}" for name, value in limits.items())),
        ("mesh", f"tp {mesh['tp']}, pp {mesh['pp']}"),
        ("targets", ", ".join(facts["targets"])),
        ("tokens", ", ".join(f"{name} {value}" for name, value in facts["tokens"].items())),
        ("source", f"{source['folder']}{made_up}, sha256 {source['sha256'][:16]}..."),
        ("made by", ", ".join([f"llmc {facts['llmc']}", *(f"{k} {v}" for k, v in facts["versions"].items())])),
        ("files", _files(facts, told)),
    ]


def _plugin(used: dict[str, Any]) -> str:
    """`llmc-example 1.0 (ops soft_gate; passes add-gates)`."""
    name = f"{used['package']} {used['version']}" if "package" in used else f"{used['file']} {used['sha256'][:12]}"
    uses = [f"{use} {', '.join(names)}" for use in ("ops", "rules", "passes", "families") if (names := used[use])]
    return f"{name} ({'; '.join(uses)})"


def _files(facts: dict[str, Any], told: set[str]) -> str:
    """Every file, but for those of plans, which have rows of their own."""
    from compiler.sizes import bytes_text

    shown = [f"{name} {bytes_text(file['bytes'])}" for name, file in facts["files"].items() if name not in told]
    return ", ".join([*shown, *([f"{len(told)} files of plans"] if told else [])])
