"""Which values of a graph are weights of a checkpoint: it is compared with its family's template, op by op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compiler.errors import ExportError
from compiler.exporters.inputs import InputForm, input_form
from compiler.exporters.template import Template, comparable, make_template
from compiler.ir.analysis import constant_values
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from compiler.ir.op import Op, Value
from compiler.ir.step_interface import is_step
from compiler.ir.tasks import TASKS

# How a result is rounded, not what it is of.
_NUMERIC = {"attention": ("rounded",), "paged_attention": ("rounded",)}
_UPDATES = ("kv_update", "paged_kv_update")


@dataclass(frozen=True)
class LinearWeight:
    """The weight of a linear that is quantized.

    Attributes:
        q: the integers or 8-bit floats, `[N, K]`.
        scale: its scales.
        zero: its zero points; None if there are none.
    """

    q: Value
    scale: Value
    zero: Value | None


@dataclass(frozen=True)
class CacheScale:
    """How a cache is quantized.

    Attributes:
        module: the attention module of the checkpoint.
        which: `k` or `v`.
        dtype: the type of what is stored.
        scale: its scales.
    """

    module: str
    which: str
    dtype: DType
    scale: Value


@dataclass
class Correspondence:
    """What of a graph stands for what of a template.

    Attributes:
        template: the template.
        graph: the graph, in the form that was compared.
        plain: by the name of a weight's value in the template, the value of the graph.
        quantized: by the same, the weights of linears that are quantized.
        inputs: by the same, what is done to the inputs of those linears, where anything is.
        linears: the values of the template that are weights of linears, in order.
        biases: the biases of linears that have none in the family, by the linear's name.
        caches: the caches that are quantized, by their names.
        cache_count: how many caches there are.
    """

    template: Template
    graph: Graph
    plain: dict[str, Value] = field(default_factory=dict)
    quantized: dict[str, LinearWeight] = field(default_factory=dict)
    inputs: dict[str, InputForm] = field(default_factory=dict)
    linears: dict[str, Value] = field(default_factory=dict)
    biases: dict[str, Value] = field(default_factory=dict)
    caches: dict[str, CacheScale] = field(default_factory=dict)
    cache_count: int = 0


def correspond(graph: Graph, config: Mapping[str, Any]) -> Correspondence:
    """Compare a graph with the one that a config stands for.

    The head may be tied to the embedding or not, whatever the config says; the template says which.

    Raises:
        ExportError: naming the op, if the graph computes something else.
        ConfigError: if no frontend reads the config.
    """
    _require_whole(graph)
    own = comparable(graph, graph)
    template = make_template(config, graph)
    first = _Comparison(template, own)
    if first.run():
        return first.found
    said = bool(template.config.get("tie_word_embeddings", _ties(template)))
    other = _Comparison(make_template(config, graph, tied=not said), own)
    if other.run():
        return other.found
    raise first.error()


def _ties(template: Template) -> bool:
    """Whether the head of a template is tied to the embedding."""
    tables = {op.operands[0].name for op in template.graph.find("embedding")}
    return any(op.operands[1].name in tables for op in template.graph.find("linear"))


def _require_whole(graph: Graph) -> None:
    mesh = mesh_of(graph)
    if mesh.size > 1:
        raise ExportError(
            f"the graph is for {mesh.size} ranks ({mesh}), of which each has a part of the weights",
            hint="export the checkpoint with the same passes, without tp, pp and embed",
        )
    if TASKS in graph.facts:
        raise ExportError(
            "the graph has virtual tokens of tasks, for which a checkpoint has no place",
            hint="leave the pass prompts out: other programs read the adapter folders themselves",
        )
    if not is_step(graph) or "family" not in graph.facts or "dtype" not in graph.facts:
        raise ExportError("the graph is no step of a model that was lifted from a checkpoint")


@dataclass(frozen=True)
class _Mismatch:
    op: Op | None
    text: str


class _Comparison:
    """Walks the template and the graph at once, from the outputs to the inputs."""

    def __init__(self, template: Template, graph: Graph) -> None:
        self.found = Correspondence(template, graph)
        self.template, self.graph = template, graph
        self.constant = constant_values(graph)
        self.partners: dict[str, str] = {}
        self.stack: list[tuple[Value, Value]] = []
        self.mismatches: list[_Mismatch] = []

    def run(self) -> bool:
        """Whether the graph computes what the template does."""
        mine, theirs = self.template.graph.outputs, self.graph.outputs
        if mine.keys() != theirs.keys():
            roles = ", ".join(sorted(mine.keys() ^ theirs.keys()))
            self.mismatches.append(_Mismatch(None, f"the outputs {roles} are in one of them only"))
            return False
        self.found.cache_count = len(self.template.graph.states())
        self.stack = [(mine[role], theirs[role]) for role in mine]
        while self.stack:
            self._pair(*self.stack.pop())
        return not self.mismatches

    def error(self) -> ExportError:
        """The error that names the first op of the graph that has no counterpart."""
        order = {op.name: i for i, op in enumerate(self.graph.ops)}
        first = min(self.mismatches, key=lambda miss: -1 if miss.op is None else order[miss.op.name])
        if first.op is None:
            return ExportError(f"the graph is no {self.graph.facts['family']} model any more: {first.text}")
        return op_error(self.graph, first.op, first.text)

    def _pair(self, mine: Value, theirs: Value) -> None:
        theirs = self._written(theirs)
        if mine.name in self.partners:
            if self.partners[mine.name] != theirs.name:
                self._miss(theirs, f"stands where %{self.partners[mine.name]} does")
            return
        self.partners[mine.name] = theirs.name
        if mine.name in self.template.made_of_weights:
            self._bind(mine, theirs)
            return
        op, own = self.template.graph.producers.get(mine.name), self.graph.producers.get(theirs.name)
        if op is None or own is None:
            if op is not own or mine.name != theirs.name:
                self._miss(theirs, f"stands where the family has {_called(op, mine)}")
            return
        if self.template.divisors(op) and not self._divides(own):
            self.stack.append((op.operands[0], theirs))
        elif op.kind.name == "linear" and own.kind.name == "linear":
            self._linear(op, own)
        elif self._alike(op, own) and self._same_result(op, mine, own, theirs):
            if op.kind.name in _UPDATES:
                self._update(op, own)
            else:
                self.stack += zip(op.operands, own.operands, strict=True)

    def _same_result(self, op: Op, mine: Value, own: Op, theirs: Value) -> bool:
        place, other = op.results.index(mine), own.results.index(theirs)
        if place != other:
            self._miss(theirs, f"is result {other} of {own.kind.name}, where the family has result {place}")
        return place == other

    def _divides(self, own: Op) -> bool:
        return own.kind.name == "div" and own.operands[1].name in self.constant

    def _alike(self, op: Op, own: Op) -> bool:
        if op.kind is not own.kind:
            self._miss(own.results[0], f"stands where the family has {_called(op, op.results[0])}")
            return False
        for name, value in op.attrs.items():
            if name not in _NUMERIC.get(op.kind.name, ()) and own.attrs[name] != value:
                self._miss(own.results[0], f"has {name}={own.attrs[name]}, where the family has {value}")
                break
        if len(op.operands) != len(own.operands):
            more = "more" if len(own.operands) > len(op.operands) else "fewer"
            self._miss(own.results[0], f"has {more} operands than the family's")
            return False
        return True

    def _bind(self, mine: Value, theirs: Value) -> None:
        """A weight of the template is a constant of the graph."""
        if theirs.name not in self.constant:
            self._miss(theirs, "is computed at run time, where the family has a weight")
            return
        if mine.type.shape != theirs.type.shape:
            self._miss(theirs, f"is {theirs.type}, where the family has {mine.type}")
            return
        producer = self.graph.producers[theirs.name]
        if producer.kind.name == "dequantize" and mine.name in self.found.linears:
            self.found.quantized[mine.name] = LinearWeight(
                producer.operands[0], producer.operands[1], producer.operands[2] if len(producer.operands) > 2 else None
            )
            return
        if not theirs.type.dtype.is_float:
            self._miss(theirs, f"is {theirs.type}, where the family has {mine.type}")
            return
        self.found.plain[mine.name] = theirs

    def _linear(self, op: Op, own: Op) -> None:
        if len(op.operands) < len(own.operands) and own.operands[2].name in self.constant:
            self.found.biases[own.name] = own.operands[2]
        elif len(op.operands) != len(own.operands):
            what = "has a bias, which the family has not" if len(own.operands) > 2 else "lacks the family's bias"
            self._miss(own.results[0], what)
        weight = op.operands[1]
        self.found.linears[weight.name] = weight
        mine = op.operands[0]
        form, x = input_form(self.graph, own.operands[0], factors=not self._is_multiplied(mine))
        divisors = self.template.graph.producers.get(mine.name)
        key = self.template.divisors(divisors)
        if form.factor is not None and key and divisors is not None:
            mine = divisors.operands[0]
            form = form.dividing(key)
        if not form.is_plain:
            self.found.inputs[weight.name] = form
        self.stack.append((mine, x))
        self.stack += zip(op.operands[1:], own.operands[1:], strict=False)

    def _is_multiplied(self, mine: Value) -> bool:
        """Whether the family itself multiplies a value by a constant."""
        op = self.template.graph.producers.get(mine.name)
        return op is not None and op.kind.name == "mul" and op.operands[1].name in constant_values(self.template.graph)

    def _written(self, value: Value) -> Value:
        """The cache that a value is read from, dequantized; any other value as it is."""
        op = self.graph.producers.get(value.name)
        if op is None or op.kind.name != "dequantize":
            return value
        state = self.graph.producers.get(op.operands[0].name)
        return state.result if state is not None and state.kind.name in _UPDATES else value

    def _update(self, op: Op, own: Op) -> None:
        cache, new = own.operands[:2]
        writes = self.graph.producers.get(new.name)
        if writes is not None and writes.kind.name == "quantize" and len(writes.operands) == 2:
            which = op.operands[0].name.rpartition(".")[2]
            self.found.caches[cache.name] = CacheScale(op.origin.module, which, new.type.dtype, writes.operands[1])
            new = writes.operands[0]
        self.stack += zip(op.operands, (cache, new, *own.operands[2:]), strict=True)

    def _miss(self, value: Value, text: str) -> None:
        op = self.graph.producers.get(value.name)
        self.mismatches.append(_Mismatch(op, text if op is not None else f"the input %{value.name} {text}"))


def op_error(graph: Graph, op: Op, text: str) -> ExportError:
    """The error that an op of a graph has no place in a checkpoint; `text` says what is the matter with it."""
    passes = [name for name in op.origin.passes if name]
    return ExportError(
        f"{op.kind.name} %{op.name} from {op.origin} {text}: "
        f"no checkpoint of the family {graph.facts['family']} says that",
        hint=f"leave out the pass that made it: {', '.join(passes)}"
        if passes
        else "export the checkpoint with passes that leave its structure as it is",
    )


def _called(op: Op | None, value: Value) -> str:
    return f"the input %{value.name}" if op is None else op.kind.name
