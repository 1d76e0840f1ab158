"""Attention over pools of blocks and the writing of pools, as ops of a program."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from runtime.executors.cpu.program import Matrix, ProgramBuilder, Size

LARGEST_WIDTH = 256
"""The most elements that a head may have."""
POOL_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn)
"""The types that pools may have."""
SCALED = (torch.int8, torch.float8_e4m3fn)
"""Those whose elements a scale turns into what they stand for."""
SPAN_COLUMNS = 4
"""The numbers of a span: its first token, how many tokens, how many are in the pools before, its row of the tables."""


class AttentionStruct(ctypes.Structure):
    """See `Attention` in attention.h."""

    _fields_: ClassVar = [
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "width_k", "width_v", "block", "window")),
        ("scale", ctypes.c_float),
        ("unused", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("slopes", "k_scales", "k_zeros", "v_scales", "v_zeros")),
    ]


class AppendStruct(ctypes.Structure):
    """See `Append` in cache_write.cpp."""

    _fields_: ClassVar = [("block", ctypes.c_int64)]


@dataclass(frozen=True)
class PoolScaling:
    """What the elements `q` of a pool stand for: `scale * (q - zero)`.

    Attributes:
        scale: one for each head, or one for all, in any shape; None if elements stand for themselves.
        zero: zero points, as many as heads or one; None if they are 0.
    """

    scale: Tensor | None = None
    zero: Tensor | None = None


@dataclass(frozen=True)
class AttentionForm:
    """What is the same in every step of an op `paged_attention`.

    Attributes:
        heads: how many heads queries have.
        kv_heads: how many keys and values have, which divides `heads`.
        width_k: the elements of a query and a key of a head, up to `LARGEST_WIDTH`.
        width_v: the elements of a value of a head, up to `LARGEST_WIDTH`.
        block: how many tokens a block of the pools holds.
        scale: factor on the scores.
        window: how many positions back a token sees; -1 for all.
        slopes: of ALiBi, as many as heads, in any shape; or None.
        keys: what the pool of keys holds.
        values: what the pool of values holds.
    """

    heads: int
    kv_heads: int
    width_k: int
    width_v: int
    block: int
    scale: float
    window: int = -1
    slopes: Tensor | None = None
    keys: PoolScaling = field(default_factory=PoolScaling)
    values: PoolScaling = field(default_factory=PoolScaling)

    def unserved(self, k_type: torch.dtype, v_type: torch.dtype) -> str | None:
        """Why the kernel cannot compute it over pools of these types; None if it can."""
        if max(self.width_k, self.width_v) > LARGEST_WIDTH:
            return f"heads have {max(self.width_k, self.width_v)} elements, more than {LARGEST_WIDTH}"
        for what, dtype, scaling in (("keys", k_type, self.keys), ("values", v_type, self.values)):
            if dtype not in POOL_TYPES:
                return f"the pool of {what} is {dtype}"
            if scaling.scale is not None and dtype not in SCALED:
                return f"the pool of {what} is {dtype}, and scaled"
            parameters = [each for each in (scaling.scale, scaling.zero) if each is not None]
            if any(each.numel() not in (1, self.kv_heads) for each in parameters):
                return f"the pool of {what} has scales that are neither one nor one for each head"
        return None


def emit_paged_append(
    builder: ProgramBuilder, new: Matrix, positions: Matrix, rows: Matrix, tables: Matrix, pool: Matrix, block: int
) -> None:
    """Write what a step adds to a pool to its place.

    Args:
        builder: the program.
        new: `[T, heads * width]`, float32 for a pool of floats of 16 bits, else of the type of the pool.
        positions: `i32[T, 1]`, the place of each token in its sequence.
        rows: `i32[T, 1]`, the row of the tables that is its sequence's.
        tables: `i32[SEQUENCES, M]`, the blocks of each sequence.
        pool: `[BLOCKS, block * heads * width]`.
        block: how many tokens a block holds.
    """
    assert new.dtype == pool.dtype or (new.dtype == torch.float32 and pool.dtype in (torch.float16, torch.bfloat16))
    assert new.columns * block == pool.columns
    builder.add("paged_append", new, positions, rows, tables, pool, attributes=AppendStruct(block))


def emit_paged_attention(
    builder: ProgramBuilder,
    q: Matrix,
    spans: Matrix,
    tables: Matrix,
    k: Matrix,
    v: Matrix,
    out: Matrix,
    form: AttentionForm,
) -> None:
    """Compute the context of each token over those of its sequence, up to itself, that pools hold.

    Args:
        builder: the program.
        q: `[T, heads * width_k]` in float32.
        spans: `i32[SPANS, 4]`: see `SPAN_COLUMNS`.
        tables: `i32[SEQUENCES, M]`, the blocks of each sequence.
        k: the pool of keys, `[BLOCKS, block * kv_heads * width_k]`.
        v: the pool of values, `[BLOCKS, block * kv_heads * width_v]`.
        out: `[T, heads * width_v]` in float32.
        form: what is the same in every step; `unserved` must be None.
    """
    assert form.unserved(k.dtype, v.dtype) is None
    assert q.columns == form.heads * form.width_k and out.columns == form.heads * form.width_v
    assert k.columns == form.block * form.kv_heads * form.width_k and spans.columns == SPAN_COLUMNS
    assert v.columns == form.block * form.kv_heads * form.width_v

    def address(values: Tensor | None, count: int) -> int | None:
        if values is None:
            return None
        held = values.detach().to("cpu", torch.float32).reshape(-1).expand(count).contiguous()
        builder.keep(held)
        return held.data_ptr()

    parameters = (form.keys.scale, form.keys.zero, form.values.scale, form.values.zero)
    attributes = AttentionStruct(
        form.heads, form.kv_heads, form.width_k, form.width_v, form.block, form.window, form.scale, 0,
        address(form.slopes, form.heads), *(address(each, form.kv_heads) for each in parameters),
    )  # fmt: skip
    floats = builder.library.function("attention_scratch", ctypes.c_int64, ctypes.POINTER(AttentionStruct))(attributes)
    scratch = builder.temporary(Size.THREADS, floats)
    builder.add("paged_attention", q, spans, tables, k, v, out, scratch, attributes=attributes)
    builder.release(scratch)
