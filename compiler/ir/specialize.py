"""Specializing a graph: symbolic dims are fixed to sizes, or become other dims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compiler.ir.dims import Affine, Dim
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value, make_op
from compiler.ir.types import TensorType


def bind_dims(graph: Graph, sizes: Mapping[str, Dim]) -> Graph:
    """The same graph, in which each symbol of `sizes` is that number or dim, in types and attributes.

    Raises:
        GraphError: if the sizes break the rule of an op.
    """
    if not sizes:
        return graph
    inputs = tuple(Value(value.name, _bound_type(value.type, sizes)) for value in graph.inputs)
    values = {value.name: value for value in inputs}
    ops: list[Op] = []
    for op in graph.ops:
        operands = tuple(values[value.name] for value in op.operands)
        attrs = {name: _bound(attr, sizes) for name, attr in op.attrs.items()}
        bound = make_op(op.kind, operands, attrs, tuple(value.name for value in op.results), op.origin)
        values.update((value.name, value) for value in bound.results)
        ops.append(bound)
    return replace(
        graph,
        inputs=inputs,
        ops=tuple(ops),
        outputs=FrozenDict({role: values[value.name] for role, value in graph.outputs.items()}),
        dims=FrozenDict({name: size for name, size in graph.dims.items() if name not in sizes}),
    )


def _bound_type(type_: TensorType, sizes: Mapping[str, Dim]) -> TensorType:
    return type_ if type_.is_fixed else type_.with_shape(*(_bound_dim(dim, sizes) for dim in type_.shape))


def _bound(attr: Any, sizes: Mapping[str, Dim]) -> Any:
    if isinstance(attr, Affine):
        return _bound_dim(attr, sizes)
    return tuple([_bound(item, sizes) for item in attr]) if isinstance(attr, tuple) else attr


def _bound_dim(dim: Dim, sizes: Mapping[str, Dim]) -> Dim:
    if isinstance(dim, int):
        return dim
    total: Dim = dim.offset
    for name, coefficient in dim.terms:
        total = total + (sizes[name] * coefficient if name in sizes else Affine(((name, coefficient),)))
    return total
