"""Reads the text form of a graph, whose grammar is in `compiler.ir.printer`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NoReturn

import compiler.ir.ops  # noqa: F401 - registers the ops
from compiler.errors import GraphError, ParseError
from compiler.ir.collection import no_collection
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import DimRange, Fact, Graph
from compiler.ir.literals import NAME, STRING, TYPE, attr_text, read_attr, read_attrs, read_name, type_of
from compiler.ir.op import NO_ORIGIN, Attr, Op, OpKind, Origin, Value, op_kind
from compiler.ir.printer import TEXT_VERSION
from compiler.suggest import did_you_mean

_RESULT = rf"%({NAME})\s*:\s*({TYPE})"
_OPERANDS = rf"%{NAME}(?:\s*,\s*%{NAME})*"
_MARK = rf"!({NAME})"

# One expression splits an op's line: first name and type, further results, kind, operands, attributes, passes.
# The marks cannot begin inside a string: the closing quote that follows would be left over.
_OP = re.compile(
    rf"{_RESULT}((?:\s*,\s*%{NAME}\s*:\s*{TYPE})*)\s*=\s*(\w+)\(\s*({_OPERANDS})?\s*(.*)\)\s*((?:{_MARK}\s*)*)"
)
_RESULTS = re.compile(_RESULT)
_NAMES = re.compile(rf"%({NAME})")
_MARKS = re.compile(_MARK)
_HEADER = re.compile(rf"({NAME})(?:\s+from\s+({NAME}))?\s*:")

# What an op's line consists of, in order, to tell which piece is missing.
_PIECES = (
    (re.compile(rf"{_RESULT}(\s*,\s*{_RESULT})*"), "a result such as %x: f16[B,S,256]"),
    (re.compile(r"\s*="), "'=' after the results"),
    (re.compile(r"\s*\w+\("), "an op such as add("),
    (re.compile(r".*\)"), "')' after the arguments"),
    (re.compile(rf"\s*({_MARK}\s*)*$"), "the end of the line, or passes such as !dtype"),
)


def parse_graph(text: str, *, root: str | None = None) -> Graph:
    """The graph that `print_graph` wrote. The types in the text are checked against those that the ops' rules give.

    Args:
        text: the text form. Blank lines and lines that start with `#` mean nothing.
        root: the folder that tensor references are relative to, in place of the text's.

    Raises:
        ParseError: naming the line by number and text, and what was expected there.
    """
    parser = _Parser()
    with no_collection():
        for number, line in enumerate(text.split("\n"), 1):
            line = line.strip()
            if not line or line[0] == "#":
                continue
            try:
                parser.line(line)
            except GraphError as error:
                where = f"line {number}: {error.message}"
                raise ParseError(where, hint=error.hint, excerpt="  " + _short(line)) from None
    return parser.graph(root)


def _short(line: str) -> str:
    return line if len(line) <= 160 else line[:159] + "…"


class _Parser:
    """What has been read so far, line by line."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.root: str | None = None
        self.facts: dict[str, Fact] = {}
        self.dims: dict[str, DimRange] = {}
        self.inputs: list[Value] = []
        self.ops: list[Op] = []
        self.outputs: dict[str, Value] = {}
        self.values: dict[str, Value] = {}
        self.enter("", "")
        # By kind and text: weights apart, a model repeats few distinct attributes.
        self.attrs: dict[tuple[str, str], FrozenDict[str, Attr]] = {}

    def graph(self, root: str | None) -> Graph:
        """The graph, after the last line."""
        if self.name is None:
            raise ParseError("the text is empty; expected 'graph NAME' on its first line")
        return Graph(
            self.name,
            tuple(self.inputs),
            tuple(self.ops),
            FrozenDict(self.outputs),
            FrozenDict(self.dims),
            FrozenDict(self.facts),
            root if root is not None else self.root if self.root is not None else ".",
        )

    def line(self, line: str) -> None:
        """Read a line that is neither blank nor a comment. Raises GraphError."""
        if line[0] == "%" and self.name is not None:
            self.ops.append(self.op(line))
            return
        word = line.partition(" ")[0]
        if self.name is None and word != "graph":
            raise GraphError("expected 'graph NAME' first")
        if header := _HEADER.fullmatch(line):
            self.section(*header.groups())
        elif word in self.statements:
            pattern, form, read = self.statements[word]
            match = pattern.fullmatch(line)
            if not match:
                raise GraphError(f"expected {form}")
            read(*match.groups())
        else:
            raise GraphError(
                "expected an op such as %x: f16[B] = add(%a, %b), a header such as layers.0.attn:, "
                f"or one of the words {', '.join(self.statements)}"
            )

    @cached_property
    def statements(self) -> Mapping[str, tuple[re.Pattern[str], str, Callable[..., None]]]:
        """Every line that is no op and no header: its first word, its pattern, how to describe it, and its reader."""
        return {
            "graph": (
                re.compile(rf"graph\s+({NAME})(?:\s+version\s+(\d+)(\s+folded)?)?"),
                "graph NAME, or graph NAME version N",
                self.read_graph,
            ),
            "root": (re.compile(rf"root\s+({STRING})"), 'root "FOLDER"', self.read_root),
            "fact": (re.compile(rf"fact\s+({NAME})\s*=\s*(.+)"), "fact NAME = VALUE", self.read_fact),
            "dim": (
                re.compile(r"dim\s+(\w+)\s*=\s*(-?\d+)\.\.(-?\d+)\.\.(-?\d+)"),
                "dim NAME = MIN..OPT..MAX",
                self.read_dim,
            ),
            "input": (re.compile(rf"input\s+({NAME})\s*:\s*({TYPE})"), "input NAME: TYPE", self.read_input),
            "output": (re.compile(rf"output\s+({NAME})\s*=\s*%({NAME})"), "output ROLE = %NAME", self.read_output),
        }

    def read_graph(self, name: str, version: str | None, folded: str | None) -> None:
        """`graph NAME version N`."""
        if self.name is not None:
            raise GraphError("a text holds one graph; this is a second one")
        if version is not None and not 1 <= int(version) <= TEXT_VERSION:
            raise GraphError(
                f"the text is of version {int(version)} of the form; this llmc reads versions up to {TEXT_VERSION}",
                hint="read it with a newer llmc, or have the one that wrote it write it again for this one",
            )
        if folded:
            raise GraphError(
                "the text leaves out layers that are as others: it is for readers, and no graph",
                hint="have it written without --fold-layers",
            )
        self.name = read_name(name)

    def read_root(self, folder: str) -> None:
        """`root "FOLDER"`."""
        if self.root is not None:
            raise GraphError("the root is given twice")
        self.root = read_name(folder)

    def read_fact(self, name: str, value: str) -> None:
        """`fact NAME = VALUE`."""
        fact = read_attr(value, Fact)
        if not isinstance(fact, (bool, int, float, str)):
            raise GraphError(f"expected a number, true, false or a string as a fact, found {attr_text(fact)}")
        _add(self.facts, read_name(name), fact, "the fact")

    def read_dim(self, name: str, low: str, typical: str, high: str) -> None:
        """`dim NAME = MIN..OPT..MAX`."""
        _add(self.dims, name, DimRange(int(low), int(typical), int(high)), "the dim")

    def read_input(self, name: str, type_: str) -> None:
        """`input NAME: TYPE`."""
        value = Value(read_name(name), type_of(type_))
        _add(self.values, value.name, value, "the input")
        self.inputs.append(value)

    def read_output(self, role: str, name: str) -> None:
        """`output ROLE = %NAME`."""
        _add(self.outputs, read_name(role), self.value(name), "the output")

    def section(self, scope: str, module: str | None) -> None:
        """`SCOPE from MODULE:`."""
        self.enter("" if scope == "." else read_name(scope), read_name(module) if module else "")

    def enter(self, scope: str, module: str) -> None:
        """Relative names and origins are of this scope and module from now on."""
        self.scope = scope
        self.module = module
        self.origin = Origin(module) if module else NO_ORIGIN
        self.origins: dict[str, Origin] = {}

    def op(self, line: str) -> Op:
        """`%x: TYPE = kind(%a, %b, axis=1)  !pass`."""
        match = _OP.fullmatch(line)
        if not match:
            _explain(line)
        name, type_, more, kind_name, operand_names, attrs_text, marks, _ = match.groups()
        kind = op_kind(kind_name)
        operands = tuple([self.value(n) for n in _NAMES.findall(operand_names)]) if operand_names else ()
        attrs = self.attributes(kind, attrs_text, bool(operands))
        types = kind.infer(tuple([value.type for value in operands]), attrs)
        written = [(name, type_), *_RESULTS.findall(more)] if more else [(name, type_)]
        if len(written) != len(types):
            raise GraphError(f"expected {len(types)} results of {kind.name}, found {len(written)}")
        results = []
        for (result, text), inferred in zip(written, types, strict=True):
            if inferred is not (said := type_of(text)) and inferred != said:
                raise GraphError(f"%{result} is written as {text}, but {kind.name} gives {inferred}")
            value = Value(self.full(result), inferred)
            if value.name in self.values:
                raise GraphError(f"%{value.name} is defined a second time")
            self.values[value.name] = value
            results.append(value)
        origin = self.touched(marks) if marks else self.origin
        return Op(kind, operands, attrs, tuple(results), origin)

    def full(self, name: str) -> str:
        """The full name: `.q` is relative to the section's scope."""
        if name[0] == ".":
            if not self.scope:
                raise GraphError(f"%{name} is relative to a scope, but no header such as layers.0.attn: gives one")
            return self.scope + name
        return read_name(name) if name[0] == '"' else name

    def value(self, name: str) -> Value:
        """The value of that name, as written."""
        full = self.full(name)
        try:
            return self.values[full]
        except KeyError:
            raise GraphError(f"%{full} is not defined above{did_you_mean(full, self.values)}") from None

    def attributes(self, kind: OpKind, text: str, follows: bool) -> FrozenDict[str, Attr]:
        """The attributes in `text`, which starts with a comma if it follows operands."""
        key = (kind.name, text)
        known = self.attrs.get(key)
        if known is not None:
            return known
        if text and follows != text.startswith(","):
            raise GraphError(
                f"expected operands such as %a, or attributes such as axis=-1, after a comma; found {text!r}"
            )
        attrs = kind.attrs(read_attrs(text.removeprefix(","), kind.attributes) if text else {})
        self.attrs[key] = attrs
        return attrs

    def touched(self, marks: str) -> Origin:
        """The section's origin after the passes in `marks`."""
        if marks not in self.origins:
            passes = tuple([read_name(name) for name in _MARKS.findall(marks)])
            self.origins[marks] = Origin(self.module, passes)
        return self.origins[marks]


def _add(mapping: dict[str, Any], name: str, item: object, what: str) -> None:
    if name in mapping:
        raise GraphError(f"{what} {name} is given twice")
    mapping[name] = item


def _explain(line: str) -> NoReturn:
    """Say which piece of an op's line is missing."""
    position = 0
    for pattern, expected in _PIECES:
        match = pattern.match(line, position)
        if not match:
            rest = _short(line[position:].strip())
            raise GraphError(f"expected {expected}" + (f", at {rest}" if rest else ""))
        position = match.end()
    raise GraphError("expected operands such as %a, then attributes such as axis=-1, between the parentheses")
