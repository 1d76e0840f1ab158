"""What went wrong in a step that runs code of plug-ins: which op it was, and where its rule is."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compiler.errors import LlmcError, PluginError, is_out_of_memory
from compiler.ir.op import Op, Value
from compiler.plugins import located
from runtime.executors.torch.lowering import RULES, Program


def step_fault(program: Program, error: Exception) -> Exception:
    """The error that names the op at which a step failed, and the plug-in's op that is to blame.

    The error itself if the graph has no ops with rules of plug-ins, or if it is not about code: no memory left, say.
    """
    foreign = {kind for op in program.graph.ops if not RULES.is_own(kind := op.kind.name)}
    if not foreign or isinstance(error, LlmcError) or is_out_of_memory(error):
        return error
    frames = traceback.walk_tb(error.__traceback__)
    found = next(((frame, line) for frame, line in frames if frame.f_code.co_filename == program.file), None)
    op = program.ops.get(found[1]) if found else None
    if found is None or op is None:
        return error
    text = str(error).strip().partition("\n")[0]  # torch lists candidates below it
    return PluginError(
        f"the step fails at {_named(op)}: {type(error).__name__}: {text}; {_blame(program, op, found, error, foreign)}",
        hint="--debug shows all of the traceback; --executor interpreter tries the evaluators instead",
    )


def _blame(program: Program, op: Op, found: tuple[Any, int], error: Exception, foreign: set[str]) -> str:
    """Whose mistake it is: the op's, if its rule is a plug-in's, else that of the first result of a wrong shape."""
    frame, line = found
    if op.kind.name in foreign:
        text = program.source.split("\n")[line - 1].strip()
        return f"it runs `{text}` ({located(error, RULES[op.kind.name])})"
    for each in program.graph.ops:
        for value in each.results if each.kind.name in foreign else ():
            wrong = _wrong_shape(program, value, frame.f_locals)
            if wrong:
                return f"{_named(each)} gave {wrong} where {value.type} is wanted ({RULES.place(each.kind.name)})"
    rules = ", ".join(f"{kind} ({RULES.place(kind)})" for kind in sorted(foreign))
    return f"the graph has ops of plug-ins: {rules}"


def _wrong_shape(program: Program, value: Value, variables: Mapping[str, Any]) -> str:
    """What a variable of the step holds, if that has another shape than its value's type; else nothing."""
    variable = program.variables.get(value.name, "")
    if variable not in variables:
        return ""
    held = variables[variable]
    if not isinstance(held, Tensor):
        return f"a {type(held).__name__}"
    try:
        wanted = value.type.sizes(variables)
    except KeyError:  # a dim that no input shows by itself
        return ""
    return "" if tuple(held.shape) == wanted else str(list(held.shape))


def _named(op: Op) -> str:
    return f"{op.kind.name} %{op.name} from {op.origin}"
