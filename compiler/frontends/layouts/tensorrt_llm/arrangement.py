"""Integers in the order in which TensorRT-LLM's kernels for weight-only products read them, put back in their own.

A converter quantizes a matrix `[K, N]` of `K` inputs and `N` outputs and stores its bytes as the kernels of the GPU
that it runs on want them; no file says for which. On Ampere (and all others that are not named below) the steps are:

1. in each 16 (8 bits) or 32 (4 bits) inputs, input `8b + 2a + c` goes to place `4a + 2b + c`, or `8a + 2b + c`;
2. the matrix is transposed;
3. of 2 (8 bits) or 4 (4 bits) outputs side by side, 64 inputs each are stored by turns;
4. in each word of 32 bits the integers with even numbers come before those with odd ones, in 8 bits 0, 2, 1, 3;
5. half of their range is added, which makes them unsigned.

For Hopper, newer versions leave out step 3, and older ones all steps but the second (`hopper-plain`); for Volta the
first three are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import CheckpointError
from compiler.frontends.composed import ComposedTensor
from compiler.frontends.read_stored import read_stored
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.store.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

TILE = 64
"""Inputs of an output that lie side by side where outputs take turns."""

# Outputs that tell whether integers are nearer to the middle of their range.
_SAMPLE = 64
# Which integer of a word of 32 bits each of those that it holds is, by their width.
_ORDER = {8: (0, 2, 1, 3), 4: (0, 2, 4, 6, 1, 3, 5, 7)}


@dataclass(frozen=True)
class Arrangement:
    """An order of integers.

    Attributes:
        turned: whether the matrix is stored transposed, output by output.
        permuted: whether inputs are permuted, step 1.
        by_turns: whether outputs take turns, step 3.
        in_words: whether integers are ordered in words and made unsigned, steps 4 and 5.
    """

    turned: bool = True
    permuted: bool = True
    by_turns: bool = True
    in_words: bool = True


ARRANGEMENTS: Mapping[str, Arrangement] = {
    "ampere": Arrangement(),
    "hopper": Arrangement(by_turns=False),
    "hopper-plain": Arrangement(permuted=False, by_turns=False, in_words=False),
    "volta": Arrangement(turned=False, permuted=False, by_turns=False),
}
"""By the GPU that they are for; the first is the usual one."""


def rearranged(tensor: StoredTensor, bits: int, inputs: int, outputs: int, arrangement: Arrangement) -> ComposedTensor:
    """The integers `[outputs, inputs]` of a stored matrix, as i8, or as i4 if they have 4 bits.

    Raises:
        CheckpointError: if it has not as many bytes as that, or cannot have this arrangement.
    """
    if tensor.nbytes * 8 != bits * inputs * outputs:
        raise CheckpointError(
            f"the tensor {tensor.name!r} in {tensor.file} has {tensor.nbytes:,} bytes, and {inputs} inputs and "
            f"{outputs} outputs of {bits} bits have {bits * inputs * outputs // 8:,}",
            hint="config.json and the weights belong to different models",
        )
    tile = TILE if arrangement.by_turns else 128 // bits if arrangement.permuted else 1
    if inputs % tile or outputs % (16 // bits):
        raise CheckpointError(
            f"the tensor {tensor.name!r} in {tensor.file} has {inputs} inputs and {outputs} outputs, which kernels of "
            f"that arrangement do not take: inputs come in {tile}s, outputs in {16 // bits}s"
        )
    words = replace(tensor, dtype=DType.i32, layout=(tensor.nbytes // 4,), perm=None)
    dtype = DType.i4 if bits == 4 else DType.i8

    def build(b: Builder, xs: Sequence[Value], name: str) -> Value:
        order = _ORDER[bits] if arrangement.in_words else ()
        plain = b.unpack(
            xs[0], bits=bits, axis=0, order=order, signed=not arrangement.in_words, name=f"{name}.integers"
        )
        return _placed(b, plain, bits, inputs, outputs, arrangement, name)

    return ComposedTensor(tensor.name, (words,), (outputs, inputs), dtype, build)


def _placed(b: Builder, x: Value, bits: int, inputs: int, outputs: int, arrangement: Arrangement, name: str) -> Value:
    """The integers of a flat tensor at their places."""
    if not arrangement.turned:
        whole = b.reshape(x, shape=(inputs, outputs), name=f"{name}.by_input")
        return b.transpose(whole, perm=(1, 0), name=name)
    turns = 16 // bits if arrangement.by_turns else 1
    rows = 128 // bits if arrangement.permuted else inputs  # that are permuted among themselves
    tile = TILE if arrangement.by_turns else rows
    inner = (4, rows // 8, 2) if arrangement.permuted else (1, 1, rows)
    shape = (outputs // turns, inputs // tile, turns, tile // rows, *inner)
    pieces = b.reshape(x, shape=shape, name=f"{name}.pieces")
    placed = b.transpose(pieces, perm=(0, 2, 1, 3, 5, 4, 6), name=f"{name}.placed")
    return b.reshape(placed, shape=(outputs, inputs), name=name)


def fitting(tensor: StoredTensor, scales: Tensor, bits: int, inputs: int, outputs: int, folder: Path) -> list[str]:
    """The arrangements that a stored matrix may have: the largest integer of every output is the largest there is.

    A scale is the largest absolute value of its output, divided by half of the integers' range, so that one of the
    output's integers is at the end of the range; and most are nearer to the middle than to the ends.

    Args:
        tensor: the matrix.
        scales: one for each output.
        bits: of an integer.
        inputs: how many there are.
        outputs: how many there are.
        folder: of the checkpoint.
    """
    half = 1 << (bits - 1)
    found = []
    for name, arrangement in ARRANGEMENTS.items():
        try:
            values = read_stored(rearranged(tensor, bits, inputs, outputs, arrangement), folder)[scales.flatten() != 0]
        except CheckpointError:
            continue
        at_ends = (values.amax(1) == half - 1) | (values.amin(1) == -half)
        if bool(at_ends.all()) and values[:_SAMPLE].double().abs().mean() <= half / 2:
            found.append(name)
    return found
