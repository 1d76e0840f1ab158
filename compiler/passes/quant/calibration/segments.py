"""The ops between two calibration points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from compiler.ir.op import Op
from compiler.ir.step import TOKEN_IDS


def split_ops(ops: Sequence[Op]) -> tuple[list[Op], dict[str, Op]]:
    """The ops that depend on tokens, in order, and the others by the values that they define.

    The others (positions, masks) are computed again between any two points, as they are quickly made and large.
    """
    depends, later, plain = {TOKEN_IDS}, [], dict[str, Op]()
    for op in ops:
        if any(value.name in depends for value in op.operands):
            depends.update(value.name for value in op.results)
            later.append(op)
        else:
            plain.update((value.name, op) for value in op.results)
    return later, plain


def needed_ops(ops: Sequence[Op], plain: Mapping[str, Op]) -> Iterator[Op]:
    """The ops of `plain` behind some ops, in order."""
    needed = used_names(ops)
    chosen = []
    for op in reversed(dict.fromkeys(plain.values())):
        if any(value.name in needed for value in op.results):
            needed.update(value.name for value in op.operands)
            chosen.append(op)
    return reversed(chosen)


def used_names(ops: Iterable[Op]) -> set[str]:
    return {value.name for op in ops for value in op.operands}
