"""Cutting a value into the shard of one rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from compiler.ir.builder import Builder
from compiler.ir.dims import Dim
from compiler.ir.op import Value
from compiler.ir.types import TensorType
from compiler.passes.parallel.factors import Factor, leaves
from compiler.passes.parallel.graph_factors import Axes
from compiler.passes.parallel.index import Split

Splits = Mapping[Factor, Split]


def local_dim(factor: Factor, splits: Splits) -> Dim:
    """The size of an axis on one rank."""
    size = factor.size
    for leaf in leaves((factor,)):
        if leaf in splits:
            size = _divided(size, splits[leaf].parts)
    return size


def _divided(size: Dim, parts: int) -> Dim:
    if isinstance(size, int):
        return size // parts
    return type(size)(tuple([(name, c // parts) for name, c in size.terms]), size.offset // parts)


def local_type(type_: TensorType, axes: Axes, splits: Splits) -> TensorType:
    """The type of a value on one rank."""
    return type_.with_shape(*[local_dim(factor, splits) for factor in axes])


def shard_value(b: Builder, value: Value, axes: Axes, splits: Splits, only: Sequence[int], name: str) -> Value:
    """One rank's shard of a value that is whole along the axes `only`; the last op is called `name`."""
    todo = [i for i in only if any(leaf in splits for leaf in leaves((axes[i],)))]
    for n, i in enumerate(todo, 1):
        value = _cut_axis(b, value, i, leaves((axes[i],)), splits, name if n == len(todo) else f"{name}.axis{i}")
    return value


def _cut_axis(b: Builder, value: Value, axis: int, factors: list[Factor], splits: Splits, name: str) -> Value:
    run = _leading_run(factors, splits)
    if run is not None:
        return b.shard(value, axis=axis, parts=run.parts, each=run.each, name=name)
    shape = value.type.shape
    sizes = [factor.size for factor in factors]
    value = b.reshape(value, shape=(*shape[:axis], *sizes, *shape[axis + 1 :]), name=f"{name}.factors")
    for i, factor in enumerate(factors):
        if factor in splits:
            split = splits[factor]
            value = b.shard(value, axis=axis + i, parts=split.parts, each=split.each, name=f"{name}.factor{i}")
    local: Dim = shape[axis]
    for factor in factors:
        local = _divided(local, splits[factor].parts if factor in splits else 1)
    return b.reshape(value, shape=(*shape[:axis], local, *shape[axis + 1 :]), name=name)


def _leading_run(factors: list[Factor], splits: Splits) -> Split | None:
    """The factors' splits as one into contiguous shards; None if the shards of a rank are not."""
    count = sum(factor in splits for factor in factors)
    leading = factors[:count]
    if any(factor not in splits for factor in leading):
        return None
    if any(splits[factor].parts != factor.size for factor in leading[:-1]):
        return None
    return Split(prod(splits[factor].parts for factor in leading), splits[leading[-1]].each)
