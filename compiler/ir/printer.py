"""The text form of a graph: what `compiler.ir.parser` reads back exactly.

    graph gpt_neox version 1
    root "/models/pythia"
    fact vocab_size = 4096
    dim B = 1..4..8
    input token_ids: i32[B,S]

    layers.0.attn from gpt_neox.layers.0.attention:
      %.q.weight: f16[256,256] = const(data=f16[256,256] "q.weight" in "model.safetensors" at 8192)
      %.q: f16[B,S,256] = linear(%layers.0.ln1.out, %.q.weight)
      %.half: f16[B,S,128], %.rest: f16[B,S,128] = split(%.q, axis=-1, sizes=[128,128])  !fuse

    output logits = %layers.0.attn.half

One op per line. A header opens a section: ops that share a module of the checkpoint and a scope of names; `%.q` inside
it is short for `%layers.0.attn.q`, and a lone dot is the outermost scope. Attributes spelt like their default are left
out; `!fuse` is a pass that touched the op. The first line says the version of the form, `TEXT_VERSION`; a text without
one is from before there were versions, in the form of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import TypeVar

from compiler.ir.folding import Folded, Form, fold, numberless, op_form
from compiler.ir.graph import Graph
from compiler.ir.literals import attr_text, is_bare, name_text, quote, ref_text
from compiler.ir.op import Attr, Op, OpKind, Value
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType

T = TypeVar("T")

TEXT_VERSION = 1
"""The version of the text form; docs/stability.md says when it grows."""

# An excerpt is for a terminal: a literal may have a million values.
_EXCERPT_WIDTH = 160


def print_graph(graph: Graph, *, fold_layers: bool = False) -> str:
    """The graph as text that ends with a newline; `parse_graph` is the inverse.

    Args:
        graph: the graph.
        fold_layers: whether to leave out layers that are as the one before them. Such a text is for readers; it says so
            in its first line, and is no graph any more.
    """
    printer = _Printer()
    version = f"version {TEXT_VERSION}{' folded' if fold_layers else ''}"
    lines = [f"graph {name_text(graph.name)} {version}", f"root {quote(graph.root)}"]
    lines += [f"fact {name_text(name)} = {attr_text(value)}" for name, value in graph.facts.items()]
    lines += [f"dim {name} = {low}..{typical}..{high}" for name, (low, typical, high) in graph.dims.items()]
    for inputs in _folded(graph.inputs, _name, _input_form, fold_layers):
        lines += [f"input {name_text(value.name)}: {value.type}" for value in inputs.shown] + left_out(inputs.like)
    for ops in _folded(graph.ops, _name, op_form, fold_layers):
        for section in sections(ops.shown):
            lines += ["", section.header, *printer.section(section)]
        lines += ["", *left_out(ops.like)] if ops.like else []
    lines.append("")
    for outputs in _folded(tuple(graph.outputs.items()), itemgetter(0), _output_form, fold_layers):
        lines += [f"output {name_text(role)} = %{name_text(value.name)}" for role, value in outputs.shown]
        lines += left_out(outputs.like)
    return "\n".join(lines) + "\n"


def left_out(like: str) -> list[str]:
    """The line in place of layers that are left out; none if none are."""
    return [f"... {like}"] if like else []


def _folded(
    items: Sequence[T], name: Callable[[T], str], form: Callable[[T, int], Form], wanted: bool
) -> Iterable[Folded[T]]:
    return fold(items, name, form) if wanted else (Folded(items),)


def _name(named: Value | Op) -> str:
    return named.name


def _input_form(value: Value, number: int) -> Form:
    return Form((numberless(value.name, number), value.type))


def _output_form(output: tuple[str, Value], number: int) -> Form:
    role, value = output
    return Form((numberless(role, number), numberless(value.name, number), value.type))


def format_op(op: Op, scope: str = "") -> str:
    """One op as a line of the text form, without indentation; names in `scope` are written short."""
    return _Printer(scope).op(op)


def excerpt(graph: Graph, op: Op, around: int = 3) -> str:
    """The line of `op`, marked, among `around` lines before and after it, for an error's message.

    An op that is not in the graph (one that could not be made, say) is shown alone.
    """
    ops = graph.ops
    at = next((i for i, other in enumerate(ops) if other is op), None)
    window: Sequence[Op] = [op] if at is None else ops[max(0, at - around) : at + around + 1]
    printer, lines = _Printer(), []
    for section in sections(window):
        lines.append("  " + section.header)
        for member, line in zip(section.ops, printer.section(section), strict=True):
            lines.append(("> " if member is op else "  ") + line)
    return "\n".join(line if len(line) <= _EXCERPT_WIDTH else line[: _EXCERPT_WIDTH - 1] + "…" for line in lines)


@dataclass
class Section:
    """Consecutive ops under one header.

    Attributes:
        scope: the scope that all their names share.
        module: the module of the checkpoint that all come from.
        ops: the ops.
    """

    scope: str
    module: str
    ops: list[Op]

    @property
    def header(self) -> str:
        """The line above the ops."""
        scope = name_text(self.scope) if self.scope else "."
        return f"{scope} from {name_text(self.module)}:" if self.module else f"{scope}:"


def sections(ops: Iterable[Op]) -> Iterator[Section]:
    """Group consecutive ops for printing.

    An op stays in the section if its scope is the section's or lies within it, or if the section's lies within the op's
    (which then becomes the section's): a weight `q.weight` and its user `q` belong together. The outermost scope
    encloses everything, so it is a section only for its own ops.
    """
    current: Section | None = None
    for op in ops:
        scope, module = op.scope, op.origin.module
        if current is not None and module == current.module:
            if scope == current.scope or _within(scope, current.scope):
                current.ops.append(op)
                continue
            if _within(current.scope, scope):
                current.scope = scope
                current.ops.append(op)
                continue
        if current is not None:
            yield current
        current = Section(scope, module, [op])
    if current is not None:
        yield current


def _within(inner: str, outer: str) -> bool:
    return bool(outer) and inner.startswith(outer) and inner[len(outer) : len(outer) + 1] == "."


class _Printer:
    """Writes ops; remembers the texts of names and types, most of which occur many times."""

    def __init__(self, scope: str = "") -> None:
        self.types: dict[TensorType, str] = {}
        self.names: dict[str, str] = {}
        self.enter(scope)

    def enter(self, scope: str) -> None:
        """Write names in `scope` short from now on."""
        # Nothing matches the prefix of a scope that has no short form: no text of a name holds a line break.
        self.prefix = f"%{scope}." if is_bare(scope) else "\n"
        self.cut = len(self.prefix) - 1

    def section(self, section: Section) -> list[str]:
        """The lines of a section's ops."""
        self.enter(section.scope)
        return ["  " + self.op(op) for op in section.ops]

    def op(self, op: Op) -> str:
        """The line of an op."""
        results = ", ".join([f"{self.name(value)}: {self.type(value.type)}" for value in op.results])
        arguments = [self.name(value) for value in op.operands]
        if op.attrs:
            arguments += self.attrs(op)
        line = f"{results} = {op.kind.name}({', '.join(arguments)})"
        return f"{line}  {_marks(op.origin.passes)}" if op.origin.passes else line

    def name(self, value: Value) -> str:
        """`%.q` in the current scope, else `%layers.0.attn.q`."""
        name = value.name
        text = self.names.get(name)
        if text is None:
            text = self.names[name] = "%" + name_text(name)
        return "%" + text[self.cut :] if text.startswith(self.prefix) else text

    def type(self, type_: TensorType) -> str:
        """`f16[B,S,256]`."""
        text = self.types.get(type_)
        if text is None:
            text = self.types[type_] = str(type_)
        return text

    def attrs(self, op: Op) -> Iterator[str]:
        """`axis=-1` for each attribute that is not spelt like its default."""
        defaults = _default_texts(op.kind)
        for name, value in op.attrs.items():
            text = self.attr(value)
            if defaults.get(name) != text:
                yield f"{name}={text}"

    def attr(self, value: Attr) -> str:
        """An attribute's value."""
        return ref_text(value, self.type(value.type)) if isinstance(value, TensorRef) else attr_text(value)


@cache
def _default_texts(kind: OpKind) -> dict[str, str]:
    # Texts, not values, because 1 == 1.0 == True and 0.0 == -0.0, and each must come back as it was.
    return {name: attr_text(value) for name, value in kind.defaults.items()}


@cache
def _marks(passes: tuple[str, ...]) -> str:
    return " ".join("!" + name_text(name) for name in passes)
