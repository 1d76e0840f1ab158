"""`llmc inspect`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from llmc.cli import options
from llmc.cli.console import note, table
from llmc.cli.network_text import chosen_plan, layer_lines, plan_rows


def inspect_command(
    path: Annotated[str, typer.Argument(help="A checkpoint, an engine, an .ir file, or a folder of dumps.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="List the layers of one of an engine's TensorRT plans, one a line.")
    ] = False,
    plan: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The TensorRT plan to show; if not given, the first for one token a row."),
    ] = None,
    json_output: options.Json = False,
    dummy_weights: options.DummyWeights = False,
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
    llmc inspect dumps
    llmc inspect dumps/00-lift.ir
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from llmc.inspection.facts import inspect_path
    from runtime.load.ignored_options import Case, ignored_notes

    notes: list[str] = []
    facts = inspect_path(path, dummy_weights=dummy_weights, layers=layers, note=notes.append)
    notes += ignored_notes(Case(json_output, "with --json all plans are shown", {"--plan": plan is not None}))
    chosen = chosen_plan(facts["tensorrt"]["plans"] if "tensorrt" in facts else (), plan)
    for text in notes:
        note(text)
    if json_output:
        print(json.dumps({**facts, **({"notes": notes} if notes else {})}, indent=2))
    elif facts["kind"] == "dumps":
        print(table([("dumps", facts["path"]), *_dump_rows(facts["graphs"])]))
    elif layers and chosen:
        print(layer_lines(chosen["layer_list"]))
    else:
        print(table(_rows(facts) + (plan_rows(facts["tensorrt"], chosen) if chosen else [])))


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    from runtime.engine_dir.sizes import bytes_text, count_text

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
    if facts["passes"]:
        rows.append(("passes", ", ".join(facts["passes"])))
    return rows + (_engine_rows(facts) if facts["kind"] == "engine" else [])


def _dump_rows(graphs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """A row a graph: its size, and how many operations of which kinds it has more or fewer than the one before."""
    from runtime.engine_dir.sizes import bytes_text

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


def _engine_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
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
        ("files", _files(facts)),
    ]


def _plugin(used: dict[str, Any]) -> str:
    """`llmc-example 1.0 (ops soft_gate; passes add-gates)`."""
    name = f"{used['package']} {used['version']}" if "package" in used else f"{used['file']} {used['sha256'][:12]}"
    uses = [f"{use} {', '.join(names)}" for use in ("ops", "rules", "passes", "families") if (names := used[use])]
    return f"{name} ({'; '.join(uses)})"


def _files(facts: dict[str, Any]) -> str:
    """Every file, but for those of plans, which have rows of their own."""
    from runtime.engine_dir.sizes import bytes_text

    plans = facts["tensorrt"]["plans"] if "tensorrt" in facts else ()
    hidden = {plan[key] for plan in plans for key in ("engine", "network")}
    shown = [f"{name} {bytes_text(file['bytes'])}" for name, file in facts["files"].items() if name not in hidden]
    return ", ".join([*shown, *([f"{len(hidden)} files of plans"] if hidden else [])])
