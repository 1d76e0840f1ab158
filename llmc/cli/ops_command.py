"""`llmc ops`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llmc.cli import options
from llmc.cli.console import table

if TYPE_CHECKING:
    from llmc.inspection.op_facts import OpFacts


def ops_command(
    name: Annotated[str | None, typer.Argument(help="An op, to see all about it.")] = None,
    json_output: options.Json = False,
    plugin: options.Plugins = None,
    debug: options.Debug = False,
) -> None:
    """List the ops that graphs are made of, with their operands and attributes.

    Of one op it says what it means, and where in the source its parts are: its type rule, what the interpreter
    computes, how torch and TensorRT run it, what TensorRT takes, and how it is split over ranks.

    \b
    llmc ops
    llmc ops attention
    llmc ops --plugin my_op.py --json
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from llmc.inspection.op_facts import describe_op, describe_ops

    found = describe_ops() if name is None else (describe_op(name),)
    if json_output:
        print(json.dumps([facts.as_json() for facts in found], indent=2))
    elif name is not None:
        print(_details(found[0]))
    else:
        print(table([(facts.call, facts.summary) for facts in found]))
        print("\nOperands in brackets may be left out. More: llmc ops NAME.")


def _details(facts: OpFacts) -> str:
    head = facts.call + (f" (from the plug-in {facts.plugin})" if facts.plugin else "")
    operands = list(facts.operands)
    attributes = [
        (name, f"{type_} ({'required' if default is None else f'default {default}'})")
        for name, type_, default in facts.attributes
    ]
    listed = {
        "Operands": operands,
        "Attributes": attributes,
        "Where its parts are": [(part.name, str(part)) for part in facts.parts],
        "What TensorRT takes": [("", facts.tensorrt_takes)] if facts.tensorrt_takes else [],
    }
    blocks = [
        f"{title}:\n" + table([(f"  {name}", text) for name, text in rows]) for title, rows in listed.items() if rows
    ]
    return "\n\n".join([head, facts.kind.doc, *blocks])
