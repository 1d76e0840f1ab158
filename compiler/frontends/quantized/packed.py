"""What a quantized checkpoint's weights are, whatever the tool that made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from compiler.errors import CheckpointError, ConfigError
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.json_fields import Fields, shown

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.frontends.weights import Weights

Enter = Callable[[Builder, Value], Value]
"""Appends what happens to the input of a linear, and returns the result."""


_HINT = "correct it there: the tool that wrote the checkpoint, or its documentation, says what it is"


@dataclass(frozen=True)
class PackedLinear:
    """A quantized weight.

    Attributes:
        q: the integers or 8-bit floats, `[N, K]`.
        scale: its scales, float32 `[1, 1]`, `[N, 1]` or `[N, K / group]`.
        zero: its zero points, of the scale's shape and the type of `q`.
        enter: what happens to the input of the linear; None for nothing.
    """

    q: Value
    scale: Value
    zero: Value | None = None
    enter: Enter | None = None

    @property
    def parts(self) -> Mapping[str, Value]:
        """The values that are there, by what they are called after the weight's name."""
        parts = {"packed": self.q, "scale": self.scale, "zero": self.zero}
        return {word: value for word, value in parts.items() if value is not None}


class PackedScheme(Protocol):
    """How a checkpoint is quantized."""

    @property
    def cache(self) -> DType | None:
        """The type of keys and values in caches; None for that of the model."""
        ...

    def weight(self, weights: Weights, module: str, out: int, width: int, name: str) -> PackedLinear | None:
        """The weight `[out, width]` of a module; None if it is not quantized. `name` is what to call it in the graph.

        Raises:
            CheckpointError: if one of its tensors is missing, or has another shape or type.
        """
        ...

    def cache_scale(self, weights: Weights, module: str, which: str, heads: int) -> Value:
        """The scale of cached keys (`k`) or values (`v`) of an attention module, `[1, 1, 1, 1]` or a scale per head."""
        ...


class Options(Fields):
    """The options of a quantized checkpoint, from one of its files, for which every value must be supported."""

    def __init__(self, file: str, values: Mapping[str, Any]) -> None:
        super().__init__(values, label=file, error=ConfigError, hint=_HINT)
        self.file = file

    def says(self, key: str) -> str:
        """How a message about a key begins: `config.json, quantization_config, sets 'bits' to 5`."""
        value = self.values.get(key)
        return f"{self.file} has no {key!r}" if value is None else f"{self.file} sets {key!r} to {shown(value)}"

    def section(self, key: str) -> Options:
        """The options that are the value of a key; ConfigError if they are missing or no object."""
        return Options(f"{self.file.removesuffix(',')}, {key},", self.take(key, dict))

    def without(self, name: str, *unsupported: str) -> None:
        """ConfigError if the value is one of these."""
        if str(self.values.get(name)).lower() in unsupported:
            raise self._unsupported(name)

    def only(self, name: str, *supported: Any, default: Any = None) -> Any:
        """The value, lower-case if it is text; ConfigError if it is not supported. Without one, the first is meant."""
        value = self.values.get(name)
        if value is None:
            value = supported[0] if default is None else default
        value = value.lower() if isinstance(value, str) else value
        if value not in supported:
            raise self._unsupported(name, *supported, value=value)
        return value

    def _unsupported(self, name: str, *supported: Any, value: Any = None) -> ConfigError:
        named = ", ".join(shown(one) for one in supported if one not in ("", {}))
        return ConfigError(
            f"{self.file} sets {name!r} to {shown(self.values.get(name, value))}, which is not supported"
            + (f"; supported: {named}" if named else ""),
            hint="compile the unquantized checkpoint, and let llmc quantize it",
        )


def has_any(weights: Weights, module: str, *tensors: str) -> bool:
    """Whether the checkpoint holds one of these tensors of the module."""
    return any(weights.has(f"{module}.{tensor}") for tensor in tensors)


def groups_of(module: str, width: int, size: int) -> int:
    """How many groups of `size` inputs there are, -1 or 0 for all; CheckpointError if they do not divide `width`."""
    if size <= 0:
        return 1
    if width % size:
        raise CheckpointError(
            f"the group size is {size}, which does not divide the {width} inputs of {module}",
            hint="quantize the model with a group size that does; llmc's groups are equal",
        )
    return width // size


def in_order(weights: Weights, tensor: str, groups: int, width: int) -> bool:
    """Whether each of the groups is a run of inputs, by a stored tensor that says the group of each input.

    Raises:
        CheckpointError: if the tensor is missing, or does not put equally many inputs into each group.
    """
    import torch

    numbers = weights.read(tensor).long()
    expected = torch.arange(width) // (width // groups)
    if numbers.shape == expected.shape and not torch.equal(numbers.sort().values, expected):
        raise CheckpointError(
            f"the tensor {tensor!r} does not put {width // groups} of {width} inputs into each of {groups} groups",
            hint="the group size in the config is another one than the weights have, or the file is damaged",
        )
    return torch.equal(numbers, expected)


def stored_integers(words: Tensor, bits: int, axis: int) -> Tensor:
    """What the op `unpack` makes of stored words: the integers along an axis, less half of their range, as int8."""
    import compiler.ir.evaluators.unpack  # noqa: F401 - registers the evaluator
    from compiler.ir.evaluators.core import evaluator

    found: Tensor = evaluator("unpack").compute({"bits": bits, "axis": axis, "order": (), "signed": False}, {}, words)
    return found


def wide(b: Builder, scale: Value, name: str) -> Value:
    """Scales in float32."""
    return scale if scale.type.dtype is DType.f32 else b.cast(scale, dtype=DType.f32, name=name)


def transposed(b: Builder, x: Value, name: str) -> Value:
    """A matrix with its dims swapped."""
    return b.transpose(x, perm=(1, 0), name=name)


def ordered(b: Builder, q: Value, groups: Value, count: int, name: str) -> tuple[Value, Enter]:
    """Columns sorted by their group, so that each group is one block, and what sorts the inputs alike.

    Args:
        b: the builder.
        q: the integers, `[N, K]`.
        groups: the number of each column's group, `i32[K]`.
        count: how many groups there are.
        name: what the weight is called.
    """
    order = b.group_order(groups, count=count, name=f"{name}.order")
    columns = b.embedding(transposed(b, q, f"{name}.columns"), order, name=f"{name}.sorted_columns")

    def enter(b: Builder, x: Value) -> Value:
        batch, _, width = x.type.shape
        rows = b.broadcast(
            b.reshape(order, shape=(1, width), name="order.row"), shape=(batch, width), name="order.rows"
        )
        features = b.transpose(x, perm=(0, 2, 1), name="features")
        found = b.gather_rows(features, rows, name="features.sorted")
        return b.transpose(found, perm=(0, 2, 1), name="input.sorted")

    return transposed(b, columns, f"{name}.packed"), enter
