"""What TensorRT takes, declared: for each kind of op the element types, and what else must hold.

`benchmarks/support_sweep.py` builds a network for every row of this table and compares. It was measured on
TensorRT-RTX 1.6.1; the package `tensorrt`, which builds only where there is a GPU, is taken to be the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import NamedTuple

from compiler.errors import TargetError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.dims import Dim, Shape
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.plugins import Registry

MOST_DIMS = 8
"""The most dims that a tensor of TensorRT has."""

FLOATS = frozenset({DType.f32, DType.f16, DType.bf16})
NUMBERS = FLOATS | {DType.i64, DType.i32, DType.i8}
EVERY = NUMBERS | {DType.bool}
INDICES = frozenset({DType.i64, DType.i32})
_QUANTIZED = frozenset({DType.i8, DType.f8e4m3})


# Kinds whose result may be of another type than their operands; a comparison's is bool.
_FREE = ("cast", "iota")


class Refusal(NamedTuple):
    """Why something cannot be built: what is missing, and a hint what to do."""

    missing: str
    hint: str


class Setting(NamedTuple):
    """Where an op stands.

    Attributes:
        graph: the graph.
        shown: the dims that an input of the network has by themselves, so that their size is known at run time.
    """

    graph: Graph
    shown: Set[str]


@dataclass(frozen=True)
class Condition:
    """What must hold of an op besides its element types.

    Attributes:
        needs: what, as a sentence without a full stop.
        hint: what to do where it does not hold.
        holds: whether it does.
    """

    needs: str
    hint: str
    holds: Callable[[Op, Setting], bool]


@dataclass(frozen=True)
class Entry:
    """What TensorRT takes of a kind of op.

    Attributes:
        types: the element types of operands and results.
        conditions: what else must hold.
        indices: the operand that is read as indices; it has types of its own.
    """

    types: frozenset[DType] = EVERY
    conditions: tuple[Condition, ...] = ()
    indices: int | None = None

    @property
    def types_text(self) -> str:
        """The element types as a table shows them, such as `f32 f16; indices i64 i32`."""
        return _listed(self.types) + (f"; indices {_listed(INDICES)}" if self.indices is not None else "")

    @property
    def conditions_text(self) -> str:
        """What else must hold, as a table shows it; empty if there is nothing."""
        return "; ".join(condition.needs for condition in self.conditions)

    def refusal(self, op: Op, setting: Setting) -> Refusal | None:
        """Why TensorRT does not take an op; None if it does."""
        for value in (*op.operands, *(op.results if op.kind.name in _FREE else ())):
            allowed = INDICES if self.indices is not None and value is op.operands[self.indices] else self.types
            if value.type.dtype not in allowed:
                types = ", ".join(dtype.value for dtype in DType if dtype in allowed)
                return Refusal(
                    f"%{value.name} is {value.type}; {op.kind.name} there takes {types}", f"cast it to {types}"
                )
        for condition in self.conditions:
            if not condition.holds(op, setting):
                given = ", ".join(str(value.type) for value in op.operands)
                return Refusal(f"{condition.needs}; it is given {given}", condition.hint)
        return None


def _listed(types: Set[DType]) -> str:
    return " ".join(dtype.value for dtype in DType if dtype in types)


def value_refusal(value: Value, types: Set[DType], is_layer: bool) -> Refusal | None:
    """Why TensorRT takes no such tensor in any op; None if it does.

    Args:
        value: the tensor.
        types: the element types that the emitter has names for.
        is_layer: whether it is a constant that becomes a layer, not an input.
    """
    name = f"%{value.name} is {value.type}"
    if value.type.dtype not in types:
        return Refusal(f"{name}, which TensorRT does not compute in", "cast it: --dtype float32")
    if value.type.rank > MOST_DIMS:
        return Refusal(f"{name}; TensorRT's tensors have {MOST_DIMS} dims at most", "join dims of it with a reshape")
    if is_layer and value.type.dtype in _QUANTIZED:
        return Refusal(f"{name}, a constant; TensorRT takes those for quantized weights only", "cast the constant")
    return None


def _sizes_known(op: Op, setting: Setting) -> bool:
    """Whether the network can compute the dims that the layer takes as a tensor."""
    needed = [dim for dim in _computed_dims(op) if not isinstance(dim, int)]
    return all(name in setting.shown for dim in needed for name, _ in dim.terms)


def _computed_dims(op: Op) -> tuple[Dim, ...]:
    if op.kind.name == "iota":
        return (op.attrs["size"],)
    if op.kind.name == "reshape":
        return _reshape_dims(op.operands[0].type.shape, op.result.type.shape)
    return (op.attrs.get("start", 0), *(dim for value in op.results for dim in value.type.shape))


def _reshape_dims(old: Shape, new: Shape) -> Shape:
    """The new shape, if more than one dim of it is neither a number nor in its old place."""
    moved = [dim == 0 or not (isinstance(dim, int) or old[i : i + 1] == (dim,)) for i, dim in enumerate(new)]
    return new if sum(moved) > 1 else ()


def _bounds_fit(op: Op, _: Setting) -> bool:
    dtype = op.result.type.dtype
    largest = 2 ** (dtype.bits - 1)
    bounds = (op.attrs["min"], op.attrs["max"])
    return dtype.is_float or all(math.isfinite(bound) and -largest <= bound < largest for bound in bounds)


def _cache_fits(op: Op, _: Setting) -> bool:
    cache, new = (value.type.shape for value in op.operands[:2])
    capacity, length = cache[LINEAR.POSITION], new[LINEAR.POSITION]
    return 0 not in cache and isinstance(capacity, int) and (not isinstance(length, int) or length <= capacity)


def _is_placed(op: Op, setting: Setting) -> bool:
    """Whether the cache is of 8 bits and is read by dequantizing it only, at once."""
    if op.operands[0].type.dtype not in (DType.i8, DType.f8e4m3):
        return False
    readers = {user.kind.name for user in setting.graph.users.get(op.name, ())}
    return isinstance(op.operands[1].type.shape[LINEAR.POSITION], int) and readers == {"dequantize"}


def _blocks_fit(op: Op) -> bool:
    """Along every axis there is one scale, or one for each index."""
    return all(
        blocks in (1, size) for size, blocks in zip(op.operands[0].type.shape, op.operands[1].type.shape, strict=True)
    )


_SIZES = Condition(
    "each symbolic dim that it computes with must be by itself a dim of an input",
    "bind the dim to a size, or add an input that has it",
    _sizes_known,
)
_TWO_DIMS = Condition(
    "it takes tensors of two dims or more",
    "reshape the operand to [1, N]",
    lambda op, _: op.operands[0].type.rank > 1,
)
_BOUNDS = Condition(
    "the bounds must be numbers of its element type",
    "give bounds within the range of the type",
    _bounds_fit,
)
_SOME_TURN = Condition(
    "at least one pair of dims must turn, if there are any",
    "leave the op out",
    lambda op, _: op.operands[1].type.shape[2] != 0 or op.operands[0].type.shape[3] == 0,
)
_CAPACITY = Condition(
    "the cache's capacity must be fixed, none of its dims 0, and no more than its capacity written at once",
    "bind the dim of the capacity to a size, and the others to fitting ones",
    _cache_fits,
)
_ENDS = Condition(
    "the cache must be an input of the graph, and its next state an output",
    "make them an input and an output of one name",
    lambda op, setting: (
        op.operands[0].name not in setting.graph.producers and op.result in setting.graph.outputs.values()
    ),
)
_NO_ZERO = Condition(
    "activations have no zero points there",
    "quantize activations symmetrically",
    lambda op, _: len(op.operands) < 3,
)
_ONE_AXIS = Condition(
    "a scale is one for a tensor, for each index of one axis, or for each token",
    "give one scale for all of the last axis",
    lambda op, _: _blocks_fit(op),
)
_PLACED = Condition(
    "a cache holds floats, or 8 bits that are only dequantized, and written at a fixed length",
    "bind the dim S to a size",
    lambda op, setting: op.operands[0].type.dtype in FLOATS or _is_placed(op, setting),
)

DEFAULT = Entry()
"""What is taken to hold of an op that nothing is declared of, such as one whose rule is a plug-in's."""

SUPPORT = Registry[Entry]("what TensorRT takes of the op {!r} is declared already", TargetError)
"""What TensorRT takes of each kind of op."""


def declare(entry: Entry, *kinds: str) -> None:
    """Say what TensorRT takes of these kinds of op, which have rules; TargetError if it is said of one already."""
    for kind in kinds:
        SUPPORT.add(kind, entry, entry)


declare(Entry(NUMBERS), "add", "sub", "mul", "less", "less_equal")
declare(Entry(FLOATS), "div", "scale", "relu", "gelu", "silu", "sigmoid", "tanh", "cos", "sin")
declare(Entry(FLOATS), "matmul", "layer_norm", "rms_norm")
declare(Entry(frozenset({DType.bool})), "logical_and")
declare(Entry(EVERY), "where")
declare(Entry(NUMBERS - {DType.i8}, (_BOUNDS,)), "clamp")
declare(Entry(EVERY | {DType.u8}), "cast")
declare(Entry(EVERY | {DType.f8e4m3}, (_SIZES,)), "reshape")
declare(Entry(EVERY | {DType.f8e4m3}), "transpose", "concat")
declare(Entry(EVERY, (_SIZES,)), "slice", "split", "broadcast")
declare(Entry(INDICES, (_SIZES,)), "iota")
declare(Entry(EVERY, indices=1), "embedding", "gather_rows")
declare(Entry(FLOATS, (_TWO_DIMS,)), "linear", "softmax", "amax")
declare(Entry(FLOATS, (_SOME_TURN,)), "rotary")
declare(Entry(FLOATS | {DType.bool}), "attention")
declare(Entry(FLOATS, (_NO_ZERO, _ONE_AXIS)), "quantize")
declare(Entry(FLOATS | {DType.i8, DType.f8e4m3}, (_NO_ZERO, _ONE_AXIS)), "dequantize")
declare(Entry(FLOATS | {DType.i32, DType.i8, DType.f8e4m3}, (_CAPACITY, _ENDS, _PLACED)), "kv_update")
