"""How checkpoints of other tools lay out quantized weights: bits side by side in words, columns in any order."""

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
