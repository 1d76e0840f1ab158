"""The verifier: the rules that every graph obeys, and a check of them."""

from __future__ import annotations

from typing import NoReturn

from compiler.errors import GraphError
from compiler.ir.dims import symbols
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value


def verify(graph: Graph) -> None:
    """Check that a graph is well formed.

    Every value is defined once, before its uses, with the type that its op's rule gives; outputs exist, and a cache's
    next state has the cache's type; every symbolic dim has a range.

    Raises:
        GraphError: naming the op, where it comes from, and the rule.
    """
    defined: dict[str, Value] = {}
    for value in graph.inputs:
        if value.name in defined:
            raise GraphError(f"the input %{value.name} is declared twice")
        defined[value.name] = value
    checked_types = set()
    for op in graph.ops:
        operand_types = []
        for value in op.operands:
            known = defined.get(value.name)
            if known is not value and known != value:
                _bad_operand(graph, op, value, known)
            operand_types.append(value.type)
        try:
            inferred = op.kind.infer(tuple(operand_types), op.attrs)
        except GraphError as error:
            _fail(op, f"breaks its rule: {error.message}", error.hint)
        if len(inferred) != len(op.results):
            _fail(op, f"has {len(op.results)} results; its rule gives {len(inferred)}")
        for value, expected in zip(op.results, inferred, strict=True):
            if value.type is not expected and value.type != expected:
                _fail(op, f"says that %{value.name} is {value.type}; its rule gives {expected}")
            if value.name in defined:
                _fail(op, f"defines %{value.name} a second time")
            defined[value.name] = value
            checked_types.add(expected)
    for role, value in graph.outputs.items():
        if defined.get(value.name) != value:
            raise GraphError(f"the output {role!r} is %{value.name}, which nothing defines with type {value.type}")
    for name, (state, successor) in graph.states().items():
        if state.type != successor.type:
            raise GraphError(f"the cache %{name} is {state.type} but its next state is {successor.type}")
    _check_dims(graph, {*checked_types, *(value.type for value in graph.inputs)})


def _check_dims(graph: Graph, types: set[object]) -> None:
    used = {name for type_ in types for dim in type_.shape for name in symbols(dim)}  # type: ignore[attr-defined]
    for name in sorted(used - graph.dims.keys()):
        raise GraphError(
            f"the symbolic dim {name} has no range", hint=f"add it to Graph.dims: {name} = (min, opt, max)"
        )
    for name, (low, typical, high) in graph.dims.items():
        if not 0 <= low <= typical <= high:
            raise GraphError(f"the range of {name} is ({low}, {typical}, {high}); it must be min <= opt <= max")


def _bad_operand(graph: Graph, op: Op, value: Value, known: Value | None) -> NoReturn:
    if known is not None:
        _fail(op, f"uses %{value.name} as {value.type}, but it is {known.type}")
    if value.name in graph.values:
        _fail(op, f"uses %{value.name} before it is defined")
    _fail(op, f"uses %{value.name}, which nothing defines")


def _fail(op: Op, message: str, hint: str | None = None) -> NoReturn:
    raise GraphError(f"{op.kind.name} %{op.name} from {op.origin} {message}", hint=hint)
