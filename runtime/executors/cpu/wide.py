"""Rows packed for the kernels of products of many rows: see `native/wide.h`."""

from __future__ import annotations

import ctypes
from typing import ClassVar

import torch

from runtime.executors.cpu.library import Library
from runtime.executors.cpu.program import Matrix, ProgramBuilder

THREAD_SCRATCH = 1 << 15
"""Bytes of scratch that `multiply_many` takes for each thread: `kThreadScratch`."""


class RowPackingStruct(ctypes.Structure):
    """See `RowPacking` in wide.h."""

    _fields_: ClassVar = [("form", ctypes.c_int32), ("fewer", ctypes.c_int32)]


def row_form(library: Library, weight: ctypes.Structure) -> int:
    """In which form rows are packed for a weight (a `Weight` of weight.h): products of one form can share them."""
    form: int = library.function("row_form", ctypes.c_int32, ctypes.c_void_p)(ctypes.addressof(weight))
    return form


def emit_pack_rows(builder: ProgramBuilder, x: Matrix, form: int, fewer: int) -> Matrix:
    """Add an op that packs rows for products of many rows.

    Args:
        builder: the program.
        x: float32 rows, or int8 ones for products of integers.
        form: what `row_form` says of the weight.
        fewer: if a step has not more rows than these, nothing is packed.

    Returns:
        The packed rows, a temporary matrix.
    """
    bytes_of = builder.library.function("packed_row_bytes", ctypes.c_int64, ctypes.c_int32, ctypes.c_int64)
    packed = builder.temporary(x.size, bytes_of(form, x.columns), torch.int8)
    builder.add("pack_rows", x, packed, attributes=RowPackingStruct(form, fewer))
    return packed
