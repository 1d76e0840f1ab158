"""Rotary embeddings, cache updates and attention."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.trt.emulator.memory import widen
from compiler.trt.emulator.table import Call, emulates
from compiler.trt.record import LayerRecord, NetworkRecord


def _angles(call: Call, index: int) -> Tensor:
    """A table of cosines or sines as `[B, 1, S, R/2]`, looked up at the positions if they are given."""
    table, positions = widen(call.tensor(index)), call.optional(3)
    if positions is None:
        return table.unsqueeze(1)
    if not positions.is_meta and positions.numel():
        least, most = (int(value) for value in torch.aminmax(positions))
        if least < 0 or most >= len(table):
            raise call.error(
                f"has positions from {least} to {most} for {len(table)} rows of angles",
                hint="keep positions below the context length that the engine was built for",
            )
    return table[positions.long()].unsqueeze(1)


@emulates("ROTARY_EMBEDDING", "rotary_embedding_dim", interleaved=(True, False))
def rotary_embedding(call: Call) -> Tensor:
    """`[B, N, S, H]` with the first elements of every head rotated in pairs, adjacent ones or one from each half."""
    x = widen(call.tensor(0))
    cos, sin = _angles(call, 1), _angles(call, 2)
    size = call.param("rotary_embedding_dim") or x.shape[-1]
    head, rest = x[..., :size], x[..., size:]
    interleaved = call.param("interleaved")
    first, second = (head[..., ::2], head[..., 1::2]) if interleaved else head.chunk(2, dim=-1)
    pairs = (first * cos - second * sin, first * sin + second * cos)
    turned = torch.stack(pairs, dim=-1).flatten(-2) if interleaved else torch.cat(pairs, dim=-1)
    return torch.cat([turned, rest], dim=-1)


def _cache_is_input(layer: LayerRecord, record: NetworkRecord) -> str | None:
    return None if layer.inputs[0] in record.inputs else f"updates {layer.inputs[0]!r}, which is no network input"


@emulates("KV_CACHE_UPDATE", cache_mode=("LINEAR",), update_form=("PADDED_BHND", None), check=_cache_is_input)
def kv_cache_update(call: Call) -> Tensor:
    """The cache `[B, N, C, H]` itself, with the update `[B, N, S, H]` written into it from each row's index on."""
    cache, update, indices = call.tensor(0), call.tensor(1), call.tensor(2)
    if cache.is_meta:
        return cache
    capacity, count = cache.shape[2], update.shape[2]
    starts = [int(start) for start in indices.tolist()]
    for row, start in enumerate(starts):
        if start < 0 or start + count > capacity:
            raise call.error(
                f"writes positions {start} to {start + count - 1} of batch row {row} into a cache of {capacity}",
                hint="end the sequence before the cache is full, or build the engine for a longer context",
            )
    for row, start in enumerate(starts):
        cache[row, :, start : start + count] = update[row]
    return cache


def _causal(kind: str, queries: int, keys: int) -> Tensor:
    """Which keys each query sees: those up to its own place, counted from the first key or back from the last."""
    offset = keys - queries if kind == "LOWER_RIGHT" else 0
    return torch.ones(queries, keys, dtype=torch.bool).tril(offset)


def _attend(call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one batch row: q `[N, S, H]`, k and v `[M, L, H]` with M dividing N, mask `[N or 1, S, L]`."""
    (heads, queries, size), (groups, keys, _) = q.shape, k.shape
    rows = heads // groups * queries
    scores = (q.reshape(groups, rows, size) @ k.mT).reshape(heads, queries, keys)
    normalize, kind = call.param("norm_op") == "SOFTMAX", call.param("causal_kind")
    keep = None if kind == "NONE" else _causal(kind, queries, keys)
    if mask is not None and mask.dtype == torch.bool:
        keep = mask if keep is None else keep & mask
    elif mask is not None:
        scores = scores + widen(mask)
    if keep is not None:
        scores = scores.masked_fill(~keep, float("-inf") if normalize else 0.0)
    if normalize:
        scores = torch.softmax(scores, dim=-1)
    if normalize and keep is not None:
        scores = scores.masked_fill(~keep, 0.0)  # a query that sees no key has NaN here
    return (scores.reshape(groups, rows, keys) @ v).reshape(heads, queries, v.shape[-1])


def _key_counts(call: Call, batch: int, capacity: int) -> list[int]:
    lengths = call.optional(4)
    counts = [capacity] * batch if lengths is None else [int(length) for length in lengths.tolist()]
    for row, count in enumerate(counts):
        if not 0 <= count <= capacity:
            raise call.error(
                f"has a key length of {count} in batch row {row} for {capacity} keys",
                hint="keep key_value_lengths between 0 and the number of keys",
            )
    return counts


@emulates(
    "ATTENTION",
    norm_op=("SOFTMAX", "NONE"),
    causal_kind=("NONE", "UPPER_LEFT", "LOWER_RIGHT"),
    query_form=("PADDED_BHND", None),
    key_value_form=("PADDED_BHND", None),
    num_ranks=(1, None),
)
def attention(call: Call) -> Tensor:
    """Attention without scaling: q `[B, N, S, H]`, k and v `[B, M, C, H]`; a query that sees no key gives zeros.

    A mask keeps where it is True, or is added. Keys from a row's `key_value_lengths` on are as if they were not there,
    which is also what LOWER_RIGHT counts from.
    """
    q, k, v, mask = call.tensor(0), call.tensor(1), call.tensor(2), call.optional(3)
    result = q.new_empty(*q.shape[:3], v.shape[3], dtype=torch.float32)
    if q.is_meta:
        return result
    for row, count in enumerate(_key_counts(call, len(q), k.shape[2])):
        seen = None if mask is None else mask[row if len(mask) > 1 else 0, ..., :count]
        result[row] = _attend(call, widen(q[row]), widen(k[row, :, :count]), widen(v[row, :, :count]), seen)
    return result
