"""Cutting a value into the piece of one rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from compiler.ir.builder import Builder
from compiler.ir.dims import Dim
from compiler.ir.op import Value
from compiler.ir.types import TensorType
from compiler.passes.parallel.atoms import Atom, leaves
from compiler.passes.parallel.index import Split
from compiler.passes.parallel.layout import Axes

Splits = Mapping[Atom, Split]


def local_dim(atom: Atom, splits: Splits) -> Dim:
    """The size of an axis on one rank."""
    size = atom.size
    for leaf in leaves((atom,)):
        if leaf in splits:
            size = _divided(size, splits[leaf].parts)
    return size


def _divided(size: Dim, parts: int) -> Dim:
    if isinstance(size, int):
        return size // parts
    return type(size)(tuple([(name, c // parts) for name, c in size.terms]), size.offset // parts)


def local_type(type_: TensorType, axes: Axes, splits: Splits) -> TensorType:
    """The type of a value on one rank."""
    return type_.with_shape(*[local_dim(atom, splits) for atom in axes])


def cut(b: Builder, value: Value, axes: Axes, splits: Splits, only: Sequence[int], name: str) -> Value:
    """One rank's piece of a value that is whole along the axes `only`; the last op is called `name`."""
    todo = [i for i in only if any(leaf in splits for leaf in leaves((axes[i],)))]
    for n, i in enumerate(todo, 1):
        value = _cut_axis(b, value, i, leaves((axes[i],)), splits, name if n == len(todo) else f"{name}.axis{i}")
    return value


def _cut_axis(b: Builder, value: Value, axis: int, atoms: list[Atom], splits: Splits, name: str) -> Value:
    run = _leading_run(atoms, splits)
    if run is not None:
        return b.shard(value, axis=axis, parts=run.parts, each=run.each, name=name)
    shape = value.type.shape
    sizes = [atom.size for atom in atoms]
    value = b.reshape(value, shape=(*shape[:axis], *sizes, *shape[axis + 1 :]), name=f"{name}.factors")
    for i, atom in enumerate(atoms):
        if atom in splits:
            split = splits[atom]
            value = b.shard(value, axis=axis + i, parts=split.parts, each=split.each, name=f"{name}.factor{i}")
    local: Dim = shape[axis]
    for atom in atoms:
        local = _divided(local, splits[atom].parts if atom in splits else 1)
    return b.reshape(value, shape=(*shape[:axis], local, *shape[axis + 1 :]), name=name)


def _leading_run(atoms: list[Atom], splits: Splits) -> Split | None:
    """The atoms' splits as one into contiguous pieces; None if the pieces of a rank are not."""
    count = sum(atom in splits for atom in atoms)
    leading = atoms[:count]
    if any(atom not in splits for atom in leading):
        return None
    if any(splits[atom].parts != atom.size for atom in leading[:-1]):
        return None
    return Split(prod(splits[atom].parts for atom in leading), splits[leading[-1]].each)
