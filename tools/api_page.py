"""Writes docs/api.md: what `import llmc` offers, from the signatures and docstrings.

    python tools/api_page.py

Run it after a public name was added or its signature or docstring was changed; a test compares the page with what this
gives.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, ForwardRef, NamedTuple

import llmc
import llmc.families
import llmc.targets

TARGET = Path(__file__).resolve().parent.parent / "docs" / "api.md"
COMMAND = "python tools/api_page.py"
OWN = ("llmc", "compiler", "runtime")


class Section(NamedTuple):
    """A part of the page."""

    title: str
    text: str
    module: Any
    names: str


HEADER = f"""\
# The Python API

All that a program, a notebook or a plug-in needs is in `llmc`, `llmc.families` and `llmc.targets`; nothing has to be
imported from `compiler` or `runtime`. Everything has type annotations, and `help` shows the whole docstrings, with what
is raised. This page is written by `{COMMAND}`.
"""

SECTIONS = (
    Section(
        "Compile and run",
        "Models are folders or ids of the hub, engines are folders. [The command line](cli.md) does the same.",
        llmc,
        """
        API_VERSION compile dry_run load verify measure_perplexity trace summarize bench export
        Compiled DryRun Engine SamplingParams Completion Verification ValueTrace Perplexity Manifest
        Summaries SummarySettings Benchmark BenchOptions Exported
        """,
    ),
    Section(
        "Graphs",
        "[Graphs](ir.md) never change. `llmc.ops` has every kind of op by its name: `op.kind is llmc.ops.relu`.",
        llmc,
        """
        lift parse to_text read_graph write_graph diff format_diff GraphDiff Interpreter
        Graph Op Value TensorType DType DimRange TensorRef OpKind ops Builder symbol
        """,
    ),
    Section(
        "Passes",
        "[The guide](passes.md) and [the cookbook](cookbook.md) show how they are used. Every kind of op is a method\n"
        "of a builder: `b.linear(x, weight, bias)`.",
        llmc,
        "register_pass optimize sweep RewriteBuilder rule apply_rules P Match Decline Rule note read_tensors",
    ),
    Section(
        "Ops",
        "[Adding an op](ir.md#adding-an-op) says which of these an op needs.",
        llmc,
        """
        register_op register_elementwise_op register_weight_op require
        evaluates lowers Lowering emits Emission sharding_rule OpFactors
        """,
    ),
    Section(
        "Families of models: `llmc.families`",
        "[The guide](frontends.md) has a whole family.",
        llmc.families,
        " ".join(llmc.families.__all__),
    ),
    Section(
        "Targets: `llmc.targets`",
        "[The guide](targets.md) has a whole target with its executor.",
        llmc.targets,
        " ".join(name for name in llmc.targets.__all__ if not name.endswith("Error")),
    ),
    Section(
        "Errors",
        "Each has a message that names the file, key, tensor or op, and a `hint` with the mend. `llmc.targets` has\n"
        "`TargetError` and `EngineError`, too.",
        llmc,
        "LlmcError GraphError PassError",
    ),
)


def page() -> str:
    """The text of docs/api.md."""
    parts = [HEADER]
    for section in SECTIONS:
        parts.append(f"\n## {section.title}\n\n{section.text}\n\n")
        parts += [_entry(section.module, name) for name in section.names.split()]
    return "".join(parts)


# What has no docstring of its own.
DATA = {
    "API_VERSION": "The version of this API; [Stability](stability.md) says when it grows.",
    "ACTIVATIONS": "The activation functions that configs name, as functions of a builder and a value.",
    "Activation": "A function of a builder and a value that appends ops and returns their result.",
    "Report": "A function of how much is done and how much there is in total.",
}


def _entry(module: Any, name: str) -> str:
    thing = getattr(module, name)
    if name in DATA:
        return f"- `{name}`: {DATA[name]}\n"
    call = name + signature(thing) if callable(thing) and not _is_error(thing) else name
    lines = [f"- `{call}`: {summary(thing)}"]
    if not inspect.isroutine(thing) and not _is_error(thing):
        cls = thing if inspect.isclass(thing) else type(thing)
        lines += [f"    - `{member}`: {text}" for member, text in _members(cls)]
    return "\n".join(lines) + "\n"


def _is_error(thing: object) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Exception)


def _members(cls: type) -> Iterator[tuple[str, str]]:
    """The public methods and properties that a class or its own bases define, with what they do."""
    seen = set()
    for base in cls.__mro__:
        if not base.__module__.startswith(OWN):
            continue
        for name, member in vars(base).items():
            function = getattr(member, "__func__", member)
            if name.startswith("_") or name in seen or not getattr(function, "__doc__", None):
                continue
            if isinstance(member, property | cached_property):
                seen.add(name)
                yield name, summary(member)
            elif inspect.isfunction(function):
                seen.add(name)
                yield name + signature(function, bound=True), summary(function)


def signature(thing: Callable[..., Any], *, bound: bool = False) -> str:
    """`(x: Value, *, axis: int = 0) -> Value`; nothing for what takes no arguments that can be told."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    if inspect.isclass(thing) and _is_not_made(thing):
        return ""
    parameters = [each for each in found.parameters.values() if not each.name.startswith("_")][1 if bound else 0 :]
    shown = [_parameter(parameter) for parameter in parameters]
    star = next((i for i, parameter in enumerate(parameters) if parameter.kind is parameter.KEYWORD_ONLY), None)
    if star is not None and all(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters):
        shown.insert(star, "*")
    result = "" if inspect.isclass(thing) else f" -> {annotation(found.return_annotation)}"
    return f"({', '.join(shown)}){result}"


def _is_not_made(cls: type) -> bool:
    """Whether a class is one that users make no objects of."""
    return inspect.isabstract(cls) or issubclass(cls, Enum) or getattr(cls, "_is_protocol", False)


def _parameter(parameter: inspect.Parameter) -> str:
    stars = "*" * (1 if parameter.kind is parameter.VAR_POSITIONAL else 2 * (parameter.kind is parameter.VAR_KEYWORD))
    default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
    return f"{stars}{parameter.name}: {annotation(parameter.annotation)}{default}"


def _default(value: object) -> str:
    text = repr(value)
    return "..." if " object at " in text or len(text) > 30 or text.startswith("<") else text


def annotation(given: object) -> str:
    """An annotation without the names of modules."""
    given = given.__forward_arg__ if isinstance(given, ForwardRef) else given
    text = given if isinstance(given, str) else inspect.formatannotation(given)
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", text.replace("'", ""))


def summary(thing: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
