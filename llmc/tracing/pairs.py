"""Which values of two sides are the same value: by name, whatever passes did to it, or by their place in equal ops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from compiler.ir.step import LOGITS
from compiler.ir.types import TensorType
from llmc.tracing.source import Source, Traced

_PARTIAL = ".partial"
"""How the names of products end that are summed over ranks."""


class Part(NamedTuple):
    """Rows of a value: what a merged linear holds of one of the linears that were merged."""

    start: int
    size: int


@dataclass(frozen=True)
class Fit:
    """How the values of the ranks of a stage make up one that can be compared.

    Attributes:
        axis: the axis along which they are joined; None for values that all ranks have, or whose sum is the value.
        stacked: whether the value of every rank is compared with that of the same rank of the other side.
    """

    axis: int | None = None
    stacked: bool = False

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """The value that is compared."""
        if self.stacked and len(tensors) > 1:
            return torch.stack(list(tensors))
        if self.axis is not None:
            return torch.cat(list(tensors), self.axis)
        first = tensors[0]
        whole = not first.is_floating_point() or all(torch.equal(first, other) for other in tensors[1:])
        return first if whole else torch.stack(list(tensors)).double().sum(0)


@dataclass(frozen=True)
class Pair:
    """A value of A and its counterpart in B.

    Attributes:
        a: the name of the value of A.
        b: the name of that of B.
        fits: how the values of the ranks are put together, on each side.
        parts: the rows that are compared, on each side; None for all.
    """

    a: str
    b: str
    fits: tuple[Fit, Fit] = (Fit(), Fit())
    parts: tuple[Part | None, Part | None] = (None, None)

    def tensors(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What is compared, of the values of all ranks of each side."""
        x, y = (
            fit.of(tensors if part is None else [tensor.narrow(0, *part) for tensor in tensors])
            for fit, part, tensors in zip(self.fits, self.parts, (a, b), strict=True)
        )
        return x, y


class _Input(NamedTuple):
    """What an op computes from: a value, or rows of one."""

    name: str
    part: Part | None = None


def find_pairs(a: Source, b: Source) -> list[Pair]:
    """The pairs, in the order of A, each after the pairs of the values that its values are computed from.

    Values of one name are a pair. So are the operands of paired ops of one kind, if they are weights, or a pass made
    one of the other: a weight and what quantization left of it, a value and its shard. A linear that was merged with
    others still counts as itself.
    """
    finder = _Finder(a, b)
    found: dict[tuple[str, str], Pair] = {}
    merged = _of_merged(a.values) | _of_merged(b.values) if a.ranks != b.ranks else set()
    for name in a.values:
        counterpart = _counterpart(name, b.values)
        if counterpart is not None and name not in merged:
            for pair in finder.of(name, counterpart):
                found.setdefault((pair.a, pair.b), pair)
    for pair in finder.outputs():
        found.setdefault((pair.a, pair.b), pair)
    return list(found.values())


class _Finder:
    def __init__(self, a: Source, b: Source) -> None:
        self._sides = (a, b)

    def of(self, ours: str, theirs: str) -> Iterator[Pair]:
        """The pairs of the operands of the ops that compute two values, and the pair of these values."""
        sides = zip(self._sides, (ours, theirs), strict=True)
        kinds, inputs = zip(*(_definition(side.values, name) for side, name in sides), strict=True)
        if kinds[0] == kinds[1]:
            for x, y in zip(*inputs, strict=False):
                if x.name != y.name and (pair := self._pair(x, y)):
                    yield pair
        alike = ours == theirs or len(inputs[0]) == len(inputs[1])  # the bias is added to the sum of partial products
        if alike and (pair := self._pair(_Input(ours), _Input(theirs))):
            yield pair

    def outputs(self) -> Iterator[Pair]:
        """The pair of the logits, whatever their names."""
        x, y = (_Input(graph.outputs[LOGITS].name) for graph in (side.graphs[-1] for side in self._sides))
        if x.name in self._sides[0].values and y.name in self._sides[1].values:
            yield from filter(None, [self._pair(x, y, related=True)])

    def _pair(self, x: _Input, y: _Input, *, related: bool = False) -> Pair | None:
        a, b = self._sides
        if x.name not in a.values or y.name not in b.values:
            return None
        ours, theirs = a.values[x.name], b.values[y.name]
        if ours.constant is not theirs.constant or not (ours.constant or related or _related(x.name, y.name)):
            return None
        fits = _fits((_type(ours, x.part), a.ranks), (_type(theirs, y.part), b.ranks))
        return Pair(x.name, y.name, fits, (x.part, y.part)) if fits else None


def _counterpart(name: str, others: Mapping[str, Traced]) -> str | None:
    """The value of that name, or what ranks compute of it, or what it is a rank's part of; None if there is none."""
    names = (name, name + _PARTIAL, name.removesuffix(_PARTIAL))
    return next((other for other in names if other in others), None)


def _related(a: str, b: str) -> bool:
    """Whether passes made one value of the other: they lengthen its name."""
    return a.startswith(b) or b.startswith(a)


def _type(traced: Traced, part: Part | None) -> TensorType:
    return traced.type if part is None else traced.type.with_shape(part.size, *traced.type.shape[1:])


def _fits(a: tuple[TensorType, int], b: tuple[TensorType, int]) -> tuple[Fit, Fit] | None:
    """How the values of all ranks become values of one shape on both sides; None if they do not."""
    (x, n), (y, m) = a, b
    if not _comparable(x.dtype, y.dtype) or x.rank != y.rank:
        return None
    if x.shape == y.shape:
        return Fit(stacked=n == m), Fit(stacked=n == m)
    axes = [axis for axis in range(x.rank) if x.shape[axis] != y.shape[axis]]
    if len(axes) != 1:
        return None
    axis = axes[0]
    size, other = x.shape[axis], y.shape[axis]
    if not isinstance(size, int) or not isinstance(other, int):
        return None
    for fit, total in ((Fit(), size), (Fit(axis), size * n)):
        for its, whole in ((Fit(), other), (Fit(axis), other * m)):
            if total == whole:
                return fit, its
    return None


def _comparable(a: DType, b: DType) -> bool:
    """Whether values of two types mean the same: codes of quantized values are no numbers."""
    return a.is_float == b.is_float and (a.is_float or a is b)


def _definition(values: Mapping[str, Traced], name: str) -> tuple[str, list[_Input]]:
    """The kind of the op that computes a value, and its operands: those of a linear that was merged, too."""
    op = values[name].op
    if op.kind.name == "split" and (merged := _merged(values, op, name)) is not None:
        return merged
    return op.kind.name, [_Input(value.name) for value in op.operands]


def _merged(values: Mapping[str, Traced], split: Op, name: str) -> tuple[str, list[_Input]] | None:
    """The definition of a part of the result of a linear; None if the split is of something else."""
    source = values.get(split.operands[0].name)
    axis = split.operands[0].type.rank - 1
    if source is None or source.op.kind.name != "linear" or split.attrs["axis"] not in (-1, axis):
        return None
    number = [value.name for value in split.results].index(name)
    sizes = split.attrs["sizes"]
    part = Part(sum(sizes[:number]), sizes[number])
    x, *weights = source.op.operands
    return "linear", [_Input(x.name), *(_rows(values, weight, number, part) for weight in weights)]


def _of_merged(values: Mapping[str, Traced]) -> set[str]:
    """Merged linears, and what their weights are made of.

    A rank's part of one has a part of each linear that was merged, so that those of other numbers of ranks have others.
    """
    found: set[str] = set()
    for split in values.values():
        if split.op.kind.name == "split" and _merged(values, split.op, split.name) is not None:
            source = values[split.op.operands[0].name]
            found.add(source.name)
            left = [value.name for value in source.op.operands[1:]]
            while left:
                name = left.pop()
                if name in values and name not in found:
                    found.add(name)
                    op = values[name].op
                    left += [value.name for value in op.operands] if op.kind.name != "concat" else []
    return found


def _rows(values: Mapping[str, Traced], weight: Value, number: int, part: Part) -> _Input:
    """What was joined to a merged weight, if that is to be seen, else its rows."""
    joined = values.get(weight.name)
    if joined is not None and joined.op.kind.name == "concat" and joined.op.attrs["axis"] == 0:
        operands = joined.op.operands
        if number < len(operands) and operands[number].type.shape[0] == part.size:
            return _Input(operands[number].name)
    return _Input(weight.name, part)
