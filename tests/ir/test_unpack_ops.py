"""Unpacking of the words in which other tools store weights."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import GraphError
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.interpreter import Interpreter


def unpacked(words: torch.Tensor, dtype: DType, **attrs: Any) -> torch.Tensor:
    """The op's result for an input."""
    b = Builder()
    b.output("y", b.unpack(b.input("x", dtype, *words.shape), **attrs))
    return Interpreter(b.build())({"x": words})["y"]


@given(
    bits=st.integers(1, 8),
    turns=st.integers(1, 3),
    rows=st.integers(1, 3),
    axis=st.sampled_from([0, 1, -1]),
    seed=st.integers(0, 100),
)
def test_integers_come_back_from_a_stream_of_bits(bits: int, turns: int, rows: int, axis: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(2**bits, (rows, 32 * turns), generator=generator)
    table = []
    for row in integers.tolist():
        stream = "".join(f"{integer:0{bits}b}" for integer in reversed(row))
        chunks = [stream[max(end - 32, 0) : end] for end in range(len(stream), 0, -32)]
        table.append([int(chunk, 2) - (2**32 if len(chunk) == 32 and chunk[0] == "1" else 0) for chunk in chunks])
    words = torch.tensor(table, dtype=torch.int32)
    expected = (integers - 2 ** (bits - 1)).to(torch.int8)
    if axis == 0:
        words, expected = words.T.contiguous(), expected.T
    assert torch.equal(unpacked(words, DType.i32, bits=bits, axis=axis), expected)


def test_twos_complements_in_bytes() -> None:
    words = torch.tensor([[0x21, 0xF8]], dtype=torch.uint8)
    assert unpacked(words, DType.u8, bits=4, axis=1, signed=True).tolist() == [[1, 2, -8, -1]]
    assert unpacked(words, DType.u8, bits=4, axis=1).tolist() == [[-7, -6, 0, 7]]


def test_an_order_says_where_each_integer_goes() -> None:
    words = torch.tensor([[0x76543210, 0x00000008]], dtype=torch.int32)
    found = unpacked(words, DType.i32, bits=4, axis=1, order=(0, 2, 4, 6, 1, 3, 5, 7))
    assert (found + 8).tolist() == [[0, 4, 1, 5, 2, 6, 3, 7, 8, 0, 0, 0, 0, 0, 0, 0]]


def test_the_type_is_the_smallest_that_holds_the_integers() -> None:
    b = Builder()
    words = b.input("x", DType.i32, 3, 8)
    assert str(b.unpack(words, bits=3, axis=0).type) == "i4[32,8]"
    assert str(b.unpack(words, bits=8, axis=1).type) == "i8[3,32]"
    assert str(b.unpack(b.input("z", DType.u8, 4, 5), bits=4, axis=0).type) == "i4[8,5]"


def test_columns_are_sorted_by_group() -> None:
    def order(groups: list[int], count: int) -> list[int]:
        b = Builder()
        b.output("y", b.group_order(b.input("x", DType.i32, len(groups)), count=count))
        found: list[int] = Interpreter(b.build())({"x": torch.tensor(groups, dtype=torch.int32)})["y"].tolist()
        return found

    assert order([1, 0, 1, 0], 2) == [1, 3, 0, 2]
    with pytest.raises(GraphError, match="columns are not 2 groups of 2"):
        order([1, 1, 1, 0], 2)


@pytest.mark.parametrize(
    ("dtype", "attrs", "message"),
    [
        (DType.i8, {"bits": 4, "axis": 0}, "words are i32 or u8, not i8"),
        (DType.i32, {"bits": 9, "axis": 0}, "bits is 9"),
        (DType.i32, {"bits": 4, "axis": 2}, "axis 2"),
        (DType.i32, {"bits": 3, "axis": 0, "order": (0, 1)}, "is no order of the integers of a word"),
        (DType.i32, {"bits": 8, "axis": 0, "order": (0, 1, 2, 2)}, "is no order of the integers of a word"),
    ],
)
def test_bad_uses(dtype: DType, attrs: dict[str, Any], message: str) -> None:
    b = Builder()
    with pytest.raises(GraphError, match=message):
        b.unpack(b.input("x", dtype, 4, 4), **attrs)
