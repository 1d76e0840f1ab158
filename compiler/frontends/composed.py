"""Tensors that a checkpoint stores in parts, or in another form than the model has them.

Such a tensor is an expression over stored ones: the parts of several ranks joined, a matrix transposed, rows cut off.
Nothing is computed here; the expression becomes ops over constants when a frontend takes the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from compiler.errors import CheckpointError
from compiler.ir.builder import Builder
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.store.stored_tensor import StoredTensor

Build = Callable[[Builder, Sequence[Value], str], Value]
"""Appends what makes a tensor of its parts: the builder, the parts' values, and what to call the result."""


@dataclass(frozen=True)
class ComposedTensor:
    """A tensor made of others.

    Attributes:
        name: what messages call it.
        parts: the tensors that it is made of, at least one.
        shape: its shape.
        dtype: its element type.
        build: makes it of the values of its parts.
    """

    name: str
    parts: tuple[SourceTensor, ...]
    shape: tuple[int, ...]
    dtype: DType
    build: Build

    @property
    def file(self) -> str:
        """The file that holds the first of its stored tensors."""
        return self.parts[0].file

    @property
    def spelling(self) -> str:
        """Its element type as the file spells it."""
        return self.parts[0].spelling

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def append(self, b: Builder, name: str) -> Value:
        """Append the constants of its parts and the ops over them; the result is called `name`."""
        several = len(self.parts) > 1
        values = [append_stored(b, part, f"{name}.{i if several else 'whole'}") for i, part in enumerate(self.parts)]
        return self.build(b, values, name)


SourceTensor = StoredTensor | ComposedTensor
"""A tensor of a checkpoint: as a file holds it, or made of such ones."""


def append_stored(b: Builder, tensor: SourceTensor, name: str, before: str = "") -> Value:
    """Append what gives a tensor of a checkpoint; the result is called `name`.

    Args:
        b: the builder.
        tensor: the tensor; its element type must be one that the IR knows.
        name: local name of the result.
        before: local name of the constant of a tensor that is stored transposed.
    """
    if isinstance(tensor, ComposedTensor):
        return tensor.append(b, name)
    value = b.const(data=tensor.ref(), name=(before or f"{name}.stored") if tensor.perm else name)
    return b.transpose(value, perm=tensor.perm, name=name) if tensor.perm else value


def stored_parts(tensor: SourceTensor) -> Iterator[StoredTensor]:
    """The stored tensors that a tensor is made of."""
    if isinstance(tensor, ComposedTensor):
        for part in tensor.parts:
            yield from stored_parts(part)
    else:
        yield tensor


def joined(name: str, parts: Sequence[SourceTensor], axis: int) -> SourceTensor:
    """The parts one after the other along an axis; CheckpointError if they do not fit together."""
    first, dtype = parts[0], _common_dtype(name, parts)
    _check_fit(name, parts, axis)
    if len(parts) == 1:
        return first
    size = sum(part.shape[axis] for part in parts)
    shape = (*first.shape[:axis], size, *first.shape[axis + 1 :])
    return ComposedTensor(name, tuple(parts), shape, dtype, lambda b, xs, n: b.concat(*xs, axis=axis, name=n))


def summed(name: str, parts: Sequence[SourceTensor]) -> SourceTensor:
    """The sum of tensors of one shape, in float32, rounded once; CheckpointError if their shapes or types differ."""
    return _accumulated(name, parts, 1.0)


def averaged(name: str, parts: Sequence[SourceTensor]) -> SourceTensor:
    """The mean of tensors of one shape, in float32, rounded once; CheckpointError if their shapes or types differ."""
    return _accumulated(name, parts, 1 / len(parts))


def transposed(name: str, tensor: SourceTensor, perm: Sequence[int] = (1, 0)) -> ComposedTensor:
    """The tensor whose dim `i` is dim `perm[i]` of another."""
    shape, order = tuple(tensor.shape[i] for i in perm), tuple(perm)
    return _of(name, tensor, shape, lambda b, xs, n: b.transpose(xs[0], perm=order, name=n))


def reshaped(name: str, tensor: SourceTensor, *shape: int) -> SourceTensor:
    """The same elements under another shape, which must hold as many."""
    if shape == tensor.shape:
        return tensor
    if math.prod(shape) != math.prod(tensor.shape):
        raise CheckpointError(
            f"the tensor {tensor.name!r} in {tensor.file} is {shape_text(tensor.shape)}, "
            f"which is not as many elements as {shape_text(shape)}"
        )
    return _of(name, tensor, shape, lambda b, xs, n: b.reshape(xs[0], shape=shape, name=n))


def sliced(name: str, tensor: SourceTensor, axis: int, start: int, size: int) -> SourceTensor:
    """`size` elements along an axis, from `start` on."""
    if (start, size) == (0, tensor.shape[axis]):
        return tensor
    shape = (*tensor.shape[:axis], size, *tensor.shape[axis + 1 :])
    return _of(name, tensor, shape, lambda b, xs, n: b.slice(xs[0], axis=axis, start=start, size=size, name=n))


def scaled(name: str, tensor: SourceTensor, factor: float) -> ComposedTensor:
    """A tensor times a number."""
    return _of(name, tensor, tensor.shape, lambda b, xs, n: b.scale(xs[0], factor=factor, name=n))


def renamed(name: str, tensor: SourceTensor) -> SourceTensor:
    """The same tensor under another name in messages."""
    return replace(tensor, name=name)


def known_dtype(tensor: SourceTensor) -> DType:
    """The tensor's element type; CheckpointError if the IR has no such type."""
    if tensor.dtype is None:
        raise CheckpointError(f"the tensor {tensor.name!r} in {tensor.file} is stored as {tensor.spelling}")
    return tensor.dtype


def _of(name: str, tensor: SourceTensor, shape: tuple[int, ...], build: Build) -> ComposedTensor:
    return ComposedTensor(name, (tensor,), shape, known_dtype(tensor), build)


def _accumulated(name: str, parts: Sequence[SourceTensor], factor: float) -> SourceTensor:
    dtype = _common_dtype(name, parts)
    _check_fit(name, parts)
    if len(parts) == 1:
        return parts[0]

    def build(b: Builder, xs: Sequence[Value], result: str) -> Value:
        if dtype is not DType.f32:
            xs = [b.cast(x, dtype=DType.f32, name=f"{result}.{i}.f32") for i, x in enumerate(xs)]
        last = result if dtype is DType.f32 else f"{result}.f32"
        total = _by_pairs(b, xs, last if factor == 1.0 else f"{result}.sum")
        mean = total if factor == 1.0 else b.scale(total, factor=factor, name=last)
        return mean if dtype is DType.f32 else b.cast(mean, dtype=dtype, name=result)

    return ComposedTensor(name, tuple(parts), parts[0].shape, dtype, build)


def _by_pairs(b: Builder, xs: Sequence[Value], name: str) -> Value:
    """The sum of two or more values, added by pairs, so that the sum of 2, 4, 8, ... equal ones is exact."""
    while len(xs) > 2:
        pairs = [xs[i : i + 2] for i in range(0, len(xs), 2)]
        xs = [b.add(*pair, name=f"{name}.{i}") if len(pair) == 2 else pair[0] for i, pair in enumerate(pairs)]
    return b.add(*xs, name=name)


def _common_dtype(name: str, parts: Sequence[SourceTensor]) -> DType:
    first = known_dtype(parts[0])
    for other in parts:
        if known_dtype(other) is not first:
            raise CheckpointError(
                f"the parts of {name!r} are stored in different types: {parts[0].file} has {parts[0].spelling}, "
                f"{other.file} {other.spelling}",
                hint="the files belong to different checkpoints: give the files that belong together",
            )
    return first


def _check_fit(name: str, parts: Sequence[SourceTensor], axis: int | None = None) -> None:
    """CheckpointError if parts differ in another dim than `axis`."""
    first = parts[0]
    for other in parts:
        pairs = enumerate(zip(first.shape, other.shape, strict=False))
        if len(first.shape) != len(other.shape) or any(a != b and i != axis for i, (a, b) in pairs):
            raise CheckpointError(
                f"the parts of {name!r} do not fit together: {first.file} has {shape_text(first.shape)}, "
                f"{other.file} {shape_text(other.shape)}",
                hint="the files belong to different checkpoints: give the files that belong together",
            )
