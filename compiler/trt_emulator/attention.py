"""Rotary embeddings, cache updates and attention."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.ir.chunks import BUDGET
from compiler.trt_emulator.memory import upcast
from compiler.trt_emulator.table import LayerCall, emulates
from compiler.trt_network.record import LayerRecord, NetworkRecord


def _angles(call: LayerCall, index: int) -> Tensor:
    """A table of cosines or sines as `[B, 1, S, R/2]`, looked up at the positions if they are given."""
    table, positions = upcast(call.tensor(index)), call.optional(3)
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


@emulates("ROTARY_EMBEDDING", "rotary_embedding_dim", inputs=4, interleaved=(True, False))
def rotary_embedding(call: LayerCall) -> Tensor:
    """`[B, N, S, H]` with the first elements of every head rotated in pairs, adjacent ones or one from each half."""
    x = upcast(call.tensor(0))
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


@emulates(
    "KV_CACHE_UPDATE",
    inputs=3,
    cache_mode=("LINEAR",),
    update_form=("PADDED_BHND", None),
    check=_cache_is_input,
)
def kv_cache_update(call: LayerCall) -> Tensor:
    """The cache `[B, N, C, H]` itself, with the update `[B, N, S, H]` written into it from each row's index on.

    Measured on TensorRT-RTX 1.6.1: what falls on positions from C on is dropped without an error, and a negative
    position counts from the end. NVIDIA's documentation wants neither to occur. Positions below -C, which nobody
    measured, are dropped here.
    """
    cache, update, indices = call.tensor(0), call.tensor(1), call.tensor(2)
    if cache.is_meta:
        return cache
    capacity, count = cache.shape[2], update.shape[2]
    positions = indices.long().unsqueeze(1) + torch.arange(count)
    positions = torch.where(positions < 0, positions + capacity, positions)
    rows, columns = ((positions >= 0) & (positions < capacity)).nonzero(as_tuple=True)
    cache[rows, :, positions[rows, columns]] = update[rows, :, columns]
    return cache


def _attention_fault(layer: LayerRecord, record: NetworkRecord) -> str | None:
    mask, lengths = (layer.inputs[i] if i < len(layer.inputs) else None for i in (3, 4))
    if lengths is not None:
        return f"has key_value_lengths ({lengths!r}), which TensorRT-RTX 1.6.1 computes wrongly"
    if mask is not None and layer.params["causal_kind"] != "NONE":
        return "has both a mask and a causal kind, which TensorRT does not allow"
    return None


def _causal(kind: str, queries: int, keys: int) -> Tensor:
    """Which keys each query sees: those up to its own place, counted from the first key or back from the last."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries if kind == "LOWER_RIGHT" else 0)


@emulates(
    "ATTENTION",
    inputs=4,
    optional=("decomposable",),
    norm_op=("SOFTMAX", "NONE"),
    causal_kind=("NONE", "UPPER_LEFT", "LOWER_RIGHT"),
    causal=(False, None),
    query_form=("PADDED_BHND", None),
    key_value_form=("PADDED_BHND", None),
    normalization_quantize_to_type=("FLOAT", None),
    num_ranks=(1, None),
    check=_attention_fault,
)
def attention(call: LayerCall) -> Tensor:
    """Attention without scaling: q `[B, N, S, H]`, k and v `[B, M, C, H]` with M dividing N; all of it in float32.

    A mask `[1 or B, 1 or N, S, C]` keeps where it is True, or is added. A query that sees no key gives zeros,
    which is neither documented nor measured.

    Measured on TensorRT-RTX 1.6.1: query i sees the keys j <= i with UPPER_LEFT, and j <= i + C - S with LOWER_RIGHT,
    as documented. `key_value_lengths` is refused, as what it does there is not what is documented: row b attends to
    the keys from its length on rather than to those before it, and to all of them if there is a mask too.
    """
    q, k, v, mask = call.tensor(0), call.tensor(1), call.tensor(2), call.optional(3)
    (batch, heads, queries, _), keys = q.shape, k.shape[2]
    if q.is_meta:
        return q.new_empty(batch, heads, queries, v.shape[3], dtype=torch.float32)
    kind = call.param("causal_kind")
    if mask is None and kind != "NONE":
        mask = _causal(kind, queries, keys)[None, None]
    normalize = call.param("norm_op") == "SOFTMAX"
    k, v = upcast(k), upcast(v)
    # As many queries at a time as keep the scores small.
    length = max(1, BUDGET // max(1, batch * heads * keys))
    parts = [
        _attend(upcast(q[:, :, rows]), k, v, _of_queries(mask, rows), normalize=normalize)
        for rows in (slice(start, start + length) for start in range(0, max(1, queries), length))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _of_queries(mask: Tensor | None, rows: slice) -> Tensor | None:
    return mask if mask is None or mask.shape[2] == 1 else mask[:, :, rows]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, normalize: bool) -> Tensor:
    (batch, heads, queries, size), (_, groups, keys, _) = q.shape, k.shape
    rows = heads // groups * queries
    scores = (q.reshape(batch, groups, rows, size) @ k.mT).reshape(batch, heads, queries, keys)
    keep = mask if mask is not None and mask.dtype == torch.bool else None
    if mask is not None and keep is None:
        scores = scores + upcast(mask)
    weights = _weights(scores, keep, normalize=normalize)
    return (weights.reshape(batch, groups, rows, keys) @ v).reshape(batch, heads, queries, v.shape[3])


def _weights(scores: Tensor, keep: Tensor | None, *, normalize: bool) -> Tensor:
    """The weights of the keys: the softmax of the scores, or the scores themselves; 0 where they are not kept."""
    if not normalize:
        return scores if keep is None else scores.masked_fill(~keep, 0.0)
    if keep is None:
        return torch.softmax(scores, dim=-1)
    weights = torch.softmax(scores.masked_fill(~keep, float("-inf")), dim=-1)
    return weights.masked_fill(~keep, 0.0)  # a query that sees no key has NaN before
