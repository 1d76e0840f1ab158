"""Products with constant weights, which are packed for the kernels once: `x @ weight.T + bias`."""

from __future__ import annotations

import ctypes
from typing import ClassVar

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import broadcast_blocks
from runtime.executors.cpu.abi import DTYPES, INT4
from runtime.executors.cpu.huge_pages import HugePages
from runtime.executors.cpu.library import Library
from runtime.executors.cpu.program import Matrix, ProgramBuilder, Size
from runtime.executors.cpu.wide import emit_pack_rows, row_form
from runtime.executors.torch.packed import PackedWeight

_PANEL = 16
_WORD_INPUTS = 8
"""The inputs of a word of int4, which share a scale."""
_MEMORY = HugePages()
_STORED = (torch.float32, torch.float16, torch.bfloat16)


class PackingStruct(ctypes.Structure):
    """See `Packing` in packing.cpp."""

    _fields_: ClassVar = [
        ("n", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("integers", ctypes.c_int32),
        ("source", ctypes.c_void_p),
        ("panels", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
    ]


class WeightStruct(ctypes.Structure):
    """See `Weight` in weight.h."""

    _fields_: ClassVar = [
        ("n", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("integers", ctypes.c_int32),
        ("groups", ctypes.c_int64),
        ("panels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("round_to", ctypes.c_int32),
        ("few", ctypes.c_int32),
    ]


class Product:
    """A weight `[N, K]` for the kernel `multiply`, with all that it needs beside the inputs.

    Attributes:
        n: the outputs.
        k: the inputs.
        integers: whether inputs are int8, with a scale for each row.
        nbytes: the memory that the weight takes.
    """

    def __init__(
        self,
        library: Library,
        weight: Tensor | PackedWeight,
        bias: Tensor | None = None,
        *,
        integers: bool = False,
        round_to: torch.dtype = torch.float32,
        threads: int = 1,
    ) -> None:
        """Pack a weight; the tensors that are given are not kept.

        Args:
            library: the kernels.
            weight: `[N, K]`: float32, float16 or bfloat16, or a quantized weight.
            bias: `[N]` or None.
            integers: whether inputs are int8 rows with a scale each; `takes_integers(weight)` must be true.
            round_to: the type that inputs hold without loss, or to which they may be rounded: bfloat16, or float32.
            threads: how many threads pack.
        """
        self.n, self.k = weight.shape
        self.integers = integers
        self._library = library
        self._kept: list[object] = []
        quantized = isinstance(weight, PackedWeight)
        if isinstance(weight, PackedWeight):
            values, dtype, scales, zeros = _parts(weight)
        else:
            values, dtype, scales, zeros = weight, DTYPES[weight.dtype], None, None
        assert not integers or takes_integers(weight)
        assert quantized or weight.dtype in _STORED, weight.dtype
        values = values.contiguous()
        sums = torch.zeros(_padded(self.n)) if integers else None
        packing = PackingStruct(self.n, self.k, dtype, integers, values.data_ptr(), None, self._address(sums))
        panels = _MEMORY.take(library.function("packed_bytes", ctypes.c_int64, ctypes.c_void_p)(_at(packing)))
        packing.panels = self._address(panels)
        library.function("pack", None, ctypes.c_void_p, ctypes.c_int32)(_at(packing), threads)
        tables = [None if table is None else _panels(table) for table in (scales, zeros)]
        if bias is not None:
            bias = torch.nn.functional.pad(bias.detach().float(), (0, _padded(self.n) - self.n))
        self._weight = WeightStruct(
            self.n,
            self.k,
            dtype,
            integers,
            scales.shape[1] if scales is not None else 0,
            packing.panels,
            self._address(tables[0]),
            self._address(tables[1]),
            packing.sums,
            self._address(bias),
            DTYPES[round_to],
            0,
        )
        self._weight.few = self._ask("few_rows", ctypes.c_int32)
        self.nbytes = sum(t.nbytes for t in (panels, *tables, sums, bias) if t is not None)

    @property
    def few(self) -> int:
        """Up to how many rows the kernel for few rows is used."""
        return int(self._weight.few)

    @few.setter
    def few(self, rows: int) -> None:
        self._weight.few = rows

    def emit(self, builder: ProgramBuilder, x: Matrix, out: Matrix, x_scale: Matrix | None = None) -> None:
        """Add the product to a program.

        Args:
            builder: the program, which keeps the weight.
            x: `[rows, K]` float32; int8 where the product is one of integers.
            out: `[rows, N]` float32.
            x_scale: the scale of each row of integers, `[rows, 1]` float32, or of all of them (`Size.ONE`).
        """
        assert (x.columns, out.columns) == (self.k, self.n)
        assert (x_scale is not None) == self.integers
        assert x.dtype is (torch.int8 if self.integers else torch.float32)
        builder.keep(self)
        packed = emit_pack_rows(builder, x, row_form(self._library, self._weight), self.few)
        threads = builder.temporary(Size.THREADS, self._ask("multiply_scratch", ctypes.c_int64), torch.int8)
        scales = () if x_scale is None else (x_scale,)
        builder.add("multiply", x, *scales, out, packed, threads, attributes=self._weight)
        builder.release(packed)
        builder.release(threads)

    def _ask(self, name: str, result: type[ctypes.c_int32 | ctypes.c_int64]) -> int:
        return int(self._library.function(name, result, ctypes.c_void_p)(_at(self._weight)))

    def _address(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._kept.append(tensor)
        return tensor.data_ptr()


def takes_integers(weight: Tensor | PackedWeight) -> bool:
    """Whether a weight can multiply int8 rows: int8 with one scale, or one for each output, and no zero points."""
    return (
        isinstance(weight, PackedWeight)
        and weight.dtype is DType.i8
        and weight.zero is None
        and weight.scale.shape[1] == 1
    )


def _parts(weight: PackedWeight) -> tuple[Tensor, int, Tensor, Tensor | None]:
    """The values as the kernels take them and their type; scales and zero points times scales, `[N, groups]`."""
    n, k = weight.shape
    shape = torch.Size((n, weight.scale.shape[1]))
    scales = broadcast_blocks(weight.scale.float(), shape).expand(shape)
    zeros = None if weight.zero is None else broadcast_blocks(weight.zero.float(), shape).expand(shape) * scales
    if weight.dtype is not DType.i4:
        return weight.q, DTYPES[weight.q.dtype], scales, zeros
    if shape[1] > 1 and k // shape[1] % _WORD_INPUTS:
        return weight.rows(0, n), DTYPES[torch.int8], scales, zeros
    return weight.q, INT4, scales, zeros


def _panels(table: Tensor) -> Tensor:
    """A table `[N, groups]` as `[N / 16, groups, 16]`, with zeros at the end."""
    n, groups = table.shape
    padded = torch.nn.functional.pad(table, (0, 0, 0, _padded(n) - n))
    return padded.view(-1, _PANEL, groups).transpose(1, 2).contiguous()


def _padded(n: int) -> int:
    return -(-n // _PANEL) * _PANEL


def _at(struct: ctypes.Structure) -> ctypes.c_void_p:
    return ctypes.c_void_p(ctypes.addressof(struct))
