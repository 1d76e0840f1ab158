"""Programs of kernels: what a step computes, in the order in which it does, in memory that is planned once.

A matrix (`Matrix`) has as many rows as the step has of something (`Size`), and a fixed number of columns. Matrices lie
in slots: memory of the caller, or of an arena, whose slots are used again by later ops once nothing needs them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import torch
from torch import Tensor

from runtime.executors.cpu.abi import DTYPES, OperandStruct, OpStruct, ProgramStruct, SlotStruct
from runtime.executors.cpu.library import Library


class Size(IntEnum):
    """What a step has some of; the number of a matrix's rows is one of these."""

    ONE = 0
    """A single row, which stands for all where rows of others are computed with it."""
    TOKENS = 1
    """The tokens of the step."""
    WANTED = 2
    """The tokens whose logits are wanted."""
    SPANS = 3
    """The sequences of which the step has tokens."""
    SEQUENCES = 4
    """The rows of the block tables."""
    THREADS = 5
    """The threads: a row of scratch memory for each."""
    BLOCKS = 6
    """The blocks of the pools."""


@dataclass(frozen=True)
class Matrix:
    """Rows of elements in a slot.

    Attributes:
        slot: the number of the slot.
        size: what it has a row for each of.
        columns: how many elements a row has.
        dtype: their type.
        offset: bytes from the beginning of the slot to the first row.
        stride: bytes from one row to the next; 0 where all rows are the same one.
    """

    slot: int
    size: Size
    columns: int
    dtype: torch.dtype
    offset: int
    stride: int

    def narrow(self, start: int, columns: int) -> Matrix:
        """Some of the columns."""
        return replace(self, columns=columns, offset=self.offset + start * self.dtype.itemsize)


@dataclass
class _ArenaSlot:
    bytes: int
    size: Size
    free: bool = False


@dataclass
class ProgramBuilder:
    """A program in the making.

    Attributes:
        library: the kernels.
        pointers: the memory that the caller provides, in order, by its name.
    """

    library: Library
    pointers: list[str] = field(default_factory=list)
    _slots: list[_ArenaSlot | int] = field(default_factory=list)
    _ops: list[tuple[str, ctypes.Structure | None, tuple[Matrix, ...]]] = field(default_factory=list)
    _kept: list[object] = field(default_factory=list)

    def external(self, name: str, size: Size, columns: int, dtype: torch.dtype, stride: int | None = None) -> Matrix:
        """A matrix of the caller's, who gives its address under this name when a step runs.

        Args:
            name: the name, one that was not used before.
            size: what it has a row for each of.
            columns: the elements of a row.
            dtype: their type.
            stride: bytes from one row to the next, if they do not follow each other.
        """
        assert name not in self.pointers
        self._slots.append(len(self.pointers))
        self.pointers.append(name)
        return Matrix(
            len(self._slots) - 1, size, columns, dtype, 0, columns * dtype.itemsize if stride is None else stride
        )

    def temporary(self, size: Size, columns: int, dtype: torch.dtype = torch.float32) -> Matrix:
        """A matrix in the arena, until `release` gives its slot back."""
        row = columns * dtype.itemsize
        row = -(-row // 64) * 64  # each row begins at a cache line
        fitting = [
            (slot.bytes, at)
            for at, slot in enumerate(self._slots)
            if isinstance(slot, _ArenaSlot) and slot.free and slot.size == size and slot.bytes >= row
        ]
        if fitting:
            _, at = min(fitting)
            slot = self._slots[at]
            assert isinstance(slot, _ArenaSlot)
            slot.free = False
        else:
            at = len(self._slots)
            self._slots.append(_ArenaSlot(row, size))
        return Matrix(at, size, columns, dtype, 0, row)

    def release(self, matrix: Matrix) -> None:
        """Let ops that are added from now on use the memory of a temporary matrix; of a caller's matrix: nothing."""
        slot = self._slots[matrix.slot]
        if isinstance(slot, _ArenaSlot):
            slot.free = True

    def keep(self, thing: object) -> None:
        """Keep an object as long as the program: memory that attributes point to."""
        self._kept.append(thing)

    def add(self, kernel: str, *operands: Matrix, attributes: ctypes.Structure | None = None) -> None:
        """Add an op: a kernel by its name, without `llmc_`; attributes as the kernel reads them."""
        self._ops.append((kernel, attributes, operands))

    def build(self) -> NativeProgram:
        """The program."""
        return NativeProgram(self.library, self.pointers, self._slots, self._ops, self._kept)


class NativeProgram:
    """A program that the library runs.

    Attributes:
        pointers: the names of the memory that the caller provides, in order.
        kernels: the kernel of each op, with the columns of its operands, for a reader.
    """

    def __init__(
        self,
        library: Library,
        pointers: Sequence[str],
        slots: Sequence[_ArenaSlot | int],
        ops: Sequence[tuple[str, ctypes.Structure | None, tuple[Matrix, ...]]],
        kept: Sequence[object],
    ) -> None:
        self.pointers = tuple(pointers)
        self.kernels = [f"{kernel} {', '.join(str(m.columns) for m in operands)}" for kernel, _, operands in ops]
        self._library = library
        self._kept = [*kept, *(attributes for _, attributes, _ in ops)]
        self._slots = (SlotStruct * len(slots))()
        for at, slot in enumerate(slots):
            self._slots[at] = SlotStruct(0, 0, slot) if isinstance(slot, int) else SlotStruct(slot.bytes, slot.size, -1)
        self._operands = [
            (OperandStruct * len(operands))(
                *(OperandStruct(m.slot, m.size, m.offset, m.stride, m.columns, DTYPES[m.dtype]) for m in operands)
            )
            for _, _, operands in ops
        ]
        self._ops = (OpStruct * len(ops))()
        for at, ((kernel, attributes, operands), structs) in enumerate(zip(ops, self._operands, strict=True)):
            address = ctypes.addressof(attributes) if attributes is not None else None
            self._ops[at] = OpStruct(library.kernel(kernel), address, structs, len(operands))
        self._program = ProgramStruct(self._ops, self._slots, len(ops), len(slots))
        self._arena = torch.empty(0, dtype=torch.uint8)
        self._nanoseconds: ctypes.Array[ctypes.c_int64] | None = None

    def run(self, sizes: Mapping[Size, int], memory: Mapping[str, Tensor], threads: int) -> None:
        """Run the program.

        Args:
            sizes: how many a step has of each; of what is missing it has none. ONE and THREADS are known.
            memory: the caller's memory, by name.
            threads: how many threads compute.
        """
        pointers = (ctypes.c_void_p * max(1, len(self.pointers)))(*(memory[name].data_ptr() for name in self.pointers))
        self.run_at(sizes, pointers, threads)

    def run_at(self, sizes: Mapping[Size, int], pointers: ctypes.Array[ctypes.c_void_p], threads: int) -> None:
        """The same, given the addresses of the caller's memory, in the order of `pointers`."""
        counts = (ctypes.c_int64 * len(Size))()
        for size, count in sizes.items():
            counts[size] = count
        counts[Size.ONE], counts[Size.THREADS] = 1, threads
        wanted = self._library.arena_bytes(self._program, counts) + 64
        if self._arena.numel() < wanted:
            self._arena = torch.empty(wanted, dtype=torch.uint8)
        arena = -(-self._arena.data_ptr() // 64) * 64
        failed = self._library.run(self._program, counts, pointers, arena, threads, self._nanoseconds)
        assert not failed, "the program has more slots or operands than the library takes"

    def measure(self) -> None:
        """Measure from now on how long each op takes."""
        self._nanoseconds = (ctypes.c_int64 * len(self._ops))()

    def times(self) -> list[float]:
        """The seconds that each op has taken since `measure` was called, until all threads had done it."""
        return [] if self._nanoseconds is None else [each / 1e9 for each in self._nanoseconds]
