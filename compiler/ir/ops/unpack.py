"""How checkpoints of other tools lay out quantized weights: bits side by side in words, columns in any order."""

from collections.abc import Mapping
from typing import NamedTuple

from compiler.ir.dtypes import DType
from compiler.ir.op import op
from compiler.ir.ops.check import axis_of, require
from compiler.ir.types import TensorType


@op
def unpack(x: TensorType, *, bits: int, axis: int, signed: bool = False, order: tuple[int, ...] = ()) -> TensorType:
    """The integers of `bits` bits that words along `axis` hold, as i4, or i8 if they have more than 4 bits.

    Words follow each other, each from its lowest bit up; an integer may go on in the next one. Unsigned integers are
    made signed by subtracting `2 ** (bits - 1)`; with `signed` they are two's complements already. `order` says for
    each integer of a word which element of the result it is, counted from the word's first; none stands for their own
    order.
    """
    axis = axis_of(axis, x.rank)
    words = x.shape[axis]
    require(x.dtype in (DType.i32, DType.u8), f"words are i32 or u8, not {x.dtype}")
    require(1 <= bits <= 8, f"bits is {bits}; it must be from 1 to 8")
    require(isinstance(words, int), f"{x} has a symbolic size along axis {axis}")
    if order:
        whole = x.dtype.bits % bits == 0 and sorted(order) == list(range(x.dtype.bits // bits))
        require(whole, f"order {list(order)} is no order of the integers of a word")
    shape = (*x.shape[:axis], words * x.dtype.bits // bits, *x.shape[axis + 1 :])  # type: ignore[operator]
    return TensorType(DType.i4 if bits <= 4 else DType.i8, shape)


@op
def group_order(groups: TensorType, *, count: int) -> TensorType:
    """The order that sorts columns by their group, equal ones as they are; `groups [K]` are numbers below `count`.

    Each group has `K / count` columns.
    """
    require(groups.rank == 1 and groups.dtype is DType.i32, f"groups are {groups}, not one i32 for each column")
    size = groups.shape[0]
    require(isinstance(size, int) and size % count == 0, f"{count} groups do not divide {size} columns")
    return groups


class BlockFormat(NamedTuple):
    """A format of blocks: how many numbers a block has, how many bytes, and of an exact one the bits of its integers.

    An exact format is integers times a scale for each `group` of numbers.
    """

    numbers: int
    nbytes: int
    bits: int = 0
    group: int = 0


BLOCKS: Mapping[str, BlockFormat] = {
    "q2_k": BlockFormat(256, 84),
    "q3_k": BlockFormat(256, 110, 4, 16),
    "q4_0": BlockFormat(32, 18, 4, 32),
    "q4_1": BlockFormat(32, 20),
    "q4_k": BlockFormat(256, 144),
    "q5_0": BlockFormat(32, 22, 8, 32),
    "q5_1": BlockFormat(32, 24),
    "q5_k": BlockFormat(256, 176),
    "q6_k": BlockFormat(256, 210, 8, 16),
    "q8_0": BlockFormat(32, 34, 8, 32),
}
"""The formats of blocks, by the names that GGUF gives them."""


@op
def decode_blocks(x: TensorType, *, format: str, part: str = "values") -> TensorType:
    """What blocks of bytes along the last dim hold, as GGUF stores weights.

    `part` is `values`, in f32; or, of a format that is integers times scales, `integers` (i4, or i8 if they have more
    than 4 bits), `scales` (f32, one for each group of numbers, made positive) or, of 4 bits, `zeros` (i4), which make
    up for that: a value is `(integer - zero) * scale`.
    """
    require(x.dtype is DType.u8 and x.rank > 0, f"blocks are bytes (u8), not {x}")
    require(format in BLOCKS, f"format is {format!r}; formats are {', '.join(BLOCKS)}")
    found, size = BLOCKS[format], x.shape[-1]
    whole = isinstance(size, int) and size % found.nbytes == 0
    require(whole, f"{x} is not in blocks of {found.nbytes} bytes")
    parts = ["values"] if not found.bits else ["values", "integers", "scales", *(["zeros"] if found.bits == 4 else [])]
    require(part in parts, f"part is {part!r}; of {format} it may be {', '.join(parts)}")
    numbers = size // found.nbytes * found.numbers  # type: ignore[operator]
    integer = DType.i4 if found.bits == 4 else DType.i8
    dtype = {"values": DType.f32, "scales": DType.f32}.get(part, integer)
    per = found.group if part in ("scales", "zeros") else 1
    return TensorType(dtype, (*x.shape[:-1], numbers // per))
