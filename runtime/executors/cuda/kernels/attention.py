"""Attention of packed steps over pools of blocks: rotary embedding, the writing of the cache, and attention itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from runtime.executors.cuda.kernels.addresses import TILE, Addresses
from runtime.executors.cuda.kernels.cache_write import write_cache
from runtime.executors.cuda.kernels.decode import decode
from runtime.executors.cuda.kernels.dependent import launch_options, waits
from runtime.executors.cuda.kernels.device import capability
from runtime.executors.cuda.kernels.elements import FP8, FP8_BITS, INT8, INT8_PACKED, PLAIN
from runtime.executors.cuda.kernels.prefill import prefill
from runtime.executors.cuda.kernels.side_stream import SideStream
from runtime.executors.cuda.kernels.tiles import MOST_SPLITS, decode_tiles, padded, prefill_tiles, split_count

_UNTURNED = (
    "EARLY", "launch_pdl", "HEADS", "KV_HEADS", "D", "DP", "BLOCK", "K_FORM", "V_FORM", "K_SCALES", "V_SCALES",
    "K_ZEROS", "V_ZEROS",
)  # fmt: skip
"""The constants and options of a kernel that turns nothing."""
_QUANTIZED = (torch.int8, torch.float8_e4m3fn)


class Rotary(NamedTuple):
    """The angles by which the queries and keys of a step are turned, over the first `R` values of a head.

    Attributes:
        cos: `f32[T, R/2]`, contiguous.
        sin: the same.
        interleaved: whether the values `(2 i, 2 i + 1)` of a head are a pair, and not `(i, i + R/2)`.
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool


class CacheScales(NamedTuple):
    """The scales of pools of int8 or float8_e4m3fn: what is stored is `quantize(x, scale, zero)`.

    Attributes:
        k: of keys, `f32[kv_heads]` or one for all; None if only the values are quantized.
        v: of values, likewise.
        k_zero: the zero points of keys, `[kv_heads]` or one for all, integers or floats; None if there are none.
        v_zero: those of values, likewise.
    """

    k: Tensor | None
    v: Tensor | None
    k_zero: Tensor | None = None
    v_zero: Tensor | None = None


class AttentionForm(NamedTuple):
    """What the attention of a model is.

    Attributes:
        heads: how many query heads there are.
        kv_heads: how many key heads, each of which `heads / kv_heads` query heads share.
        width: how many values a head has.
        scale: factor on the scores, more than 0.
        window: how many positions back a token sees; -1 for all.
    """

    heads: int
    kv_heads: int
    width: int
    scale: float
    window: int = -1

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.heads // self.kv_heads


class Workspace:
    """Memory in which programs of a kernel meet, and a second stream. Kernels that run one after the other share it.

    What was given out once stays allocated as long as the workspace, since captured CUDA graphs go on using it. A
    capture must not be the first to ask for a size: a step of that size runs before.
    """

    def __init__(self) -> None:
        self._sums: dict[torch.device, list[Tensor]] = {}
        self._counters: dict[torch.device, list[Tensor]] = {}
        self.side = SideStream()

    def sums(self, count: int, device: torch.device) -> Tensor:
        """At least `count` float32 values of any content."""
        held = self._sums.setdefault(device, [])
        if not held or held[-1].numel() < count:
            held.append(torch.empty(triton.next_power_of_2(count), dtype=torch.float32, device=device))
        return held[-1]

    def counters(self, count: int, device: torch.device) -> Tensor:
        """At least `count` int32 values that are 0, and are left so."""
        held = self._counters.setdefault(device, [])
        if not held or held[-1].numel() < count:
            held.append(torch.zeros(triton.next_power_of_2(count), dtype=torch.int32, device=device))
        return held[-1]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    addresses: Addresses,
    form: AttentionForm,
    rotary: Rotary | None = None,
    slopes: Tensor | None = None,
    scales: CacheScales | None = None,
    *,
    workspace: Workspace | None = None,
) -> Tensor:
    """Rotate the queries and keys of a step, write keys and values into pools in place, and attend causally.

    Args:
        q: `[T, heads * width]`; its rows may be any distance apart, as in a slice of a larger product.
        k: `[T, kv_heads * width]`, likewise.
        v: the same.
        k_pool: `[N, block, kv_heads, width]`, contiguous: of a floating-point type, or int8 or float8_e4m3fn.
        v_pool: the same.
        addresses: where the tokens are.
        form: what the attention is.
        rotary: by which angles queries and keys are turned; None for none.
        slopes: of ALiBi, `f32[heads]`; None for none.
        scales: of quantized pools; None for others.
        workspace: memory to reuse from call to call; new memory is taken without it.

    Returns:
        The context, `[T, heads * width]`, contiguous, in the type of `q`.

    Raises:
        ValueError: if addresses have neither single tokens nor work items.
    """
    parameters = scales if scales is not None else CacheScales(None, None)
    common = {**_common(form, rotary, parameters, (k_pool, v_pool), addresses.block), **launch_options(q.device)}
    cos, sin = (rotary.cos, rotary.sin) if rotary is not None else (None, None)
    pools = (_bytes(k_pool), _bytes(v_pool))
    stored = min(pool.dtype.itemsize for pool in pools)
    context = torch.empty(q.shape[0], form.heads * form.width, dtype=q.dtype, device=q.device)
    apart = _pool_places(form, addresses.block)
    if addresses.decodes:
        _decode(q, k, v, pools, addresses, form, (cos, sin, slopes, *parameters), context, common | apart, workspace)
        return context
    if addresses.queries is None:
        raise ValueError("a step of more than one token a sequence needs the work items of its addresses")
    tokens, table_stride = q.shape[0], addresses.tables.stride(0)
    pairs = max(1, 4096 // common["DP"])
    turning = 0 if rotary is None else triton.cdiv(tokens * form.heads, pairs)
    write_cache[(triton.cdiv(tokens * form.kv_heads, pairs) + turning,)](
        q, k, v, *pools, addresses.positions, addresses.rows, addresses.tables, cos, sin, *parameters, context,
        tokens, q.stride(0), k.stride(0), v.stride(0), table_stride, BR=pairs, **common,
    )  # fmt: skip
    bm, bn, warps, stages = prefill_tiles(q.dtype, stored, common["DP"], q.device)
    turned, items = q if rotary is None else context, addresses.queries

    def attend_chunks() -> None:
        prefill[(form.heads, TILE // bm, items.shape[0])](
            turned, *pools, items, addresses.tables, slopes, *parameters, context,
            turned.stride(0), table_stride, form.scale, WINDOW=form.window, ALIBI=slopes is not None,
            BM=bm, BN=bn, STAGES=stages, num_warps=warps, **{name: common[name] for name in _UNTURNED},
        )  # fmt: skip

    if addresses.singles is None:
        attend_chunks()
        return context
    # Chunks are bound by computing, and single tokens by reading.
    space = workspace or Workspace()
    waiting = {**common, **apart, **waits()}
    tensors = (cos, sin, slopes, *parameters)
    space.side.run(
        q.device, attend_chunks, lambda: _decode(q, k, v, pools, addresses, form, tensors, context, waiting, space)
    )
    return context


def attend_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    past: Tensor,
    rows: Tensor,
    form: AttentionForm,
    context: Tensor,
    rotary: Rotary | None = None,
    slopes: Tensor | None = None,
    scales: CacheScales | None = None,
    *,
    workspace: Workspace,
) -> None:
    """`attend` for a token of each of `B` sequences, over caches that have a row for each, with the heads in front.

    Args:
        q: `[B, heads * width]`; see `attend` for this and what is not listed here.
        k: `[B, kv_heads * width]`.
        v: the same.
        k_cache: `[B, kv_heads, capacity, width]`, contiguous.
        v_cache: the same.
        past: `i32[B]`, the position of each token; one that is not below the capacity is padding, whose context is 0.
        rows: `i32[B, 1]`, the numbers from 0 on.
        form: what the attention is.
        context: where the context goes, `[B, heads * width]`, contiguous.
        rotary: by which angles queries and keys are turned; None for none.
        slopes: of ALiBi.
        scales: of quantized caches.
        workspace: memory to reuse.
    """
    capacity = k_cache.shape[2]
    parameters = scales if scales is not None else CacheScales(None, None)
    common = {**_common(form, rotary, parameters, (k_cache, v_cache), capacity), **waits()}
    common |= {"ENTRY": form.kv_heads * capacity * form.width, "SLOT": form.width, "HEAD": capacity * form.width}
    cos, sin = (rotary.cos, rotary.sin) if rotary is not None else (None, None)
    addresses = Addresses(past, rows, rows, capacity, capacity, decodes=True)
    caches = (_bytes(k_cache), _bytes(v_cache))
    tensors = (cos, sin, slopes, *parameters)
    _decode(q, k, v, caches, addresses, form, tensors, context, common | {"BOUNDED": True}, workspace)


def _pool_places(form: AttentionForm, block: int) -> dict[str, int]:
    """How far blocks, positions and heads are apart in a pool, as the kernel of single tokens takes it."""
    slot = form.kv_heads * form.width
    return {"ENTRY": block * slot, "SLOT": slot, "HEAD": form.width, "BOUNDED": False}


def _decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pools: tuple[Tensor, Tensor],
    addresses: Addresses,
    form: AttentionForm,
    parameters: tuple[Tensor | None, ...],
    context: Tensor,
    common: dict[str, int],
    workspace: Workspace | None,
) -> None:
    device, listed = q.device, addresses.singles
    tokens = q.shape[0] if listed is None else listed.shape[0]
    tiles = decode_tiles(q.dtype, min(pool.dtype.itemsize for pool in pools), form.width, form.kv_heads, form.group)
    programs, members = form.kv_heads // tiles.keys, max(tiles.keys, tiles.group)
    splits = split_count(tokens, programs, addresses.longest, device)
    partial = tops = totals = arrivals = None
    if splits > 1:
        held = workspace or Workspace()
        rows = triton.cdiv(tokens * programs * splits * members, 16) * 16
        space = held.sums(rows * (common["DP"] + 2), device)
        partial, tops, totals = space, space[rows * common["DP"] :], space[rows * (common["DP"] + 1) :]
        arrivals = held.counters(tokens * programs, device)
    decode[(programs, splits, tokens)](
        q, k, v, *pools, addresses.positions, addresses.rows, addresses.tables, *parameters, context,
        listed, partial, tops, totals, arrivals,
        q.stride(0), k.stride(0), v.stride(0), addresses.tables.stride(0), form.scale, splits,
        WINDOW=form.window, ALIBI=parameters[2] is not None, MOST_SPLITS=MOST_SPLITS if splits > 1 else 1,
        LISTED=listed is not None, KEYS=tiles.keys, GROUP=tiles.group, BN=tiles.positions, UNROLL=tiles.unroll,
        STAGES=tiles.stages, num_warps=tiles.warps, **common,
    )  # fmt: skip


def _common(
    form: AttentionForm, rotary: Rotary | None, scales: CacheScales, pools: tuple[Tensor, Tensor], block: int
) -> dict[str, int]:
    """The constants that all kernels take."""
    return {
        "HEADS": form.heads,
        "KV_HEADS": form.kv_heads,
        "D": form.width,
        "DP": padded(form.width),
        "R": 0 if rotary is None else 2 * rotary.cos.shape[-1],
        "INTERLEAVED": rotary is not None and rotary.interleaved,
        "BLOCK": block,
        "K_FORM": _form(pools[0]),
        "V_FORM": _form(pools[1]),
        "K_SCALES": _stride(scales.k if pools[0].dtype in _QUANTIZED else None),
        "V_SCALES": _stride(scales.v if pools[1].dtype in _QUANTIZED else None),
        "K_ZEROS": _stride(scales.k_zero),
        "V_ZEROS": _stride(scales.v_zero),
    }


def _stride(parameter: Tensor | None) -> int:
    """How far the parameters of key heads are apart, as `head_parameter` takes it."""
    return -1 if parameter is None else int(parameter.numel() > 1)


def _form(pool: Tensor) -> int:
    """How a pool stores its values, as kernels name it."""
    if pool.dtype is torch.int8:
        return int(INT8_PACKED.value if capability(pool.device) > (0, 0) else INT8.value)
    if pool.dtype is torch.float8_e4m3fn:
        return int(FP8.value if capability(pool.device) >= (8, 9) else FP8_BITS.value)
    return int(PLAIN.value)


def _bytes(pool: Tensor) -> Tensor:
    """A pool as kernels take it: fp8 as bytes."""
    return pool.view(torch.uint8) if pool.dtype is torch.float8_e4m3fn else pool
