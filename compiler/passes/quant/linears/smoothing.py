"""Dividing the inputs of linears by scales and multiplying their weights with them: the same function.

Where only these linears read the input, the division costs nothing: what makes the input absorbs it. A norm takes it
into its weight and bias, a linear into its rows, also through a relu, the product of a gate, and attention (the values'
heads). Elsewhere the input is multiplied by an explicit `pre_quant_scale`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from compiler.ir.analysis import constant_values
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import Replacement, RewriteBuilder, sweep
from compiler.passes.quant.calibration.points import CalibrationPoint
from compiler.passes.quant.linears.replace import PASS_NAME

Make = Callable[[RewriteBuilder], Value]
"""Appends the reciprocal of the scales, a constant `[K]` of the input's type, and returns it."""


@dataclass(frozen=True)
class DivisionPlace:
    """Where the division of an input happens.

    Attributes:
        kind: in a norm's parameters, in a linear's rows, or as an op of its own.
        op: the name of the norm or linear.
    """

    kind: Literal["norm", "rows", "mul"]
    op: str = ""


def smooth(
    graph: Graph,
    points: Collection[CalibrationPoint],
    scales: Mapping[str, Make],
    places: Mapping[str, DivisionPlace] | None = None,
) -> Graph:
    """The graph with the inputs of some linears multiplied by constants, and their weights divided by them.

    Args:
        graph: the graph.
        points: linears grouped by their input; a linear over another input of the same value is not among them.
        scales: what to multiply an input by, by the input's name.
        places: where that is done, by the input's name; the cheapest places if None.
    """
    points = [point for point in points if point.x.name in scales]
    places = find_places(graph, points) if places is None else places
    absorbing = {place.op: name for name, place in places.items() if place.op}
    divided = {op.name: point.x.name for point in points for op in point.ops}
    made: dict[str, Value] = {}

    def factor(name: str, b: RewriteBuilder) -> Value:
        if name not in made:
            made[name] = scales[name](b)
        return made[name]

    multiplied: dict[str, Value] = {}

    def visit(op: Op, b: RewriteBuilder) -> Replacement:
        if op.name not in divided and op.name not in absorbing:
            return None
        x, *parameters = op.operands
        if op.name in divided:
            name = divided[op.name]
            parameters[0] = b.div(parameters[0], factor(name, b), name="weight.smoothed")
            if places[name].kind == "mul":
                if name not in multiplied:
                    multiplied[name] = b.mul(x, factor(name, b), name="x.smoothed")
                x = multiplied[name]
        if op.name in absorbing:
            parameters = _absorbed(op, parameters, factor(absorbing[op.name], b), b)
        return b.emit(op.kind, (x, *parameters), op.attrs)

    return sweep(graph, visit, pass_name=PASS_NAME)


def _absorbed(op: Op, parameters: list[Value], factor: Value, b: RewriteBuilder) -> list[Value]:
    """The parameters of a norm or linear whose result is multiplied by `factor`."""
    if not parameters:
        return [factor]  # a norm without a weight
    weight, *bias = parameters
    column = factor
    if op.kind.name == "linear":
        column = b.reshape(factor, shape=(*factor.type.shape, 1), name="column")
    scaled = b.mul(weight, column, name="weight.scaled")
    return [scaled, *(b.mul(value, factor, name="bias.scaled") for value in bias)]


def find_places(graph: Graph, points: Collection[CalibrationPoint]) -> dict[str, DivisionPlace]:
    """Where the division of each point's input happens, by the input's name."""
    finder = _Finder(graph)
    return {point.x.name: finder.find(point) for point in points}


class _Finder:
    """Follows an input back to what can absorb its scales."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constant = constant_values(graph)
        self.outputs = {value.name for role, value in graph.outputs.items() if role not in graph.states()}
        self.taken: set[str] = set()

    def find(self, point: CalibrationPoint) -> DivisionPlace:
        """The place for a point; each op absorbs the scales of one input at most."""
        users = {op.name for op in self.graph.users.get(point.x.name, ())}
        if users != {op.name for op in point.ops} or point.x.name in self.outputs:
            return DivisionPlace("mul")
        op = self._absorber(self.graph.producers.get(point.x.name))
        if op is None or op.name in self.taken or op.result.type.shape[-1] != point.x.type.shape[-1]:
            return DivisionPlace("mul")
        self.taken.add(op.name)
        return DivisionPlace("rows" if op.kind.name == "linear" else "norm", op.name)

    def _absorber(self, op: Op | None) -> Op | None:
        """The norm or linear behind the result of `op`, through ops that commute with positive scales of channels."""
        if op is None:
            return None
        kind = op.kind.name
        if kind in ("layer_norm", "rms_norm", "linear"):
            return op if all(self._is_plain(value) for value in op.operands[1:]) else None
        if kind == "relu":
            return self._behind(op.operands[0])
        if kind == "mul":
            return self._behind(op.operands[1]) or self._behind(op.operands[0])
        return self._behind_heads(op)

    def _is_plain(self, value: Value) -> bool:
        """Whether a parameter is constant and not quantized yet: a factor would come between weight and linear."""
        return value.name in self.constant and self.graph.producers[value.name].kind.name != "dequantize"

    def _behind(self, value: Value) -> Op | None:
        """The absorber behind a value that one op reads."""
        if len(self.graph.users[value.name]) > 1 or value.name in self.outputs:
            return None
        return self._absorber(self.graph.producers.get(value.name))

    def _behind_heads(self, op: Op) -> Op | None:
        """The linear that makes the values of an attention whose heads `op` joins."""
        rows = self._step(op, "reshape")
        context = self._step(rows, "transpose", perm=(0, 2, 1, 3))
        if context is None or rows is None or context.kind.name not in ("matmul", "attention"):
            return None
        values = context.operands[2 if context.kind.name == "attention" else 1]
        if context.attrs.get("transpose_b") or len(self.graph.users[values.name]) > 1:
            return None
        update = self.graph.producers.get(values.name)
        if update is None or update.kind.name != "kv_update":
            return None
        heads = self._producer(update.operands[1])
        split = self._step(heads, "transpose", perm=(0, 2, 1, 3))
        linear = self._step(split, "reshape")
        if linear is None or split is None or linear.kind.name != "linear":
            return None
        same = split.result.type.shape[2:] == rows.result.type.shape[2:]  # every head reads values of its own
        return self._absorber(linear) if same else None

    def _step(self, op: Op | None, kind: str, **attrs: object) -> Op | None:
        """The op before `op`, if `op` is of that kind and alone reads it."""
        if op is None or op.kind.name != kind or any(op.attrs[name] != value for name, value in attrs.items()):
            return None
        return self._producer(op.operands[0])

    def _producer(self, value: Value) -> Op | None:
        if len(self.graph.users[value.name]) > 1 or value.name in self.outputs:
            return None
        return self.graph.producers.get(value.name)
