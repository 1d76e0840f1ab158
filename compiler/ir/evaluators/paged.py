"""What the ops of `compiler.ir.ops.paged` compute; see `compiler.ir.evaluators.core`."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.errors import GraphError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.chunks import BUDGET
from compiler.ir.evaluators.core import Attrs, Rounding, Sizes, evaluates
from compiler.ir.evaluators.nn import attend
from compiler.ir.paged_layout import PagedLayout


def _unrounded(x: Tensor) -> Tensor:
    return x


@evaluates("paged_kv_update", exact=True)
def _paged_kv_update(
    attrs: Attrs, sizes: Sizes, pool: Tensor, new: Tensor, positions: Tensor, rows: Tensor, tables: Tensor
) -> Tensor:
    blocks, block = pool.shape[PagedLayout.BLOCK], pool.shape[PagedLayout.POSITION]
    slots = PagedLayout.slots(positions, rows, tables, block)
    if bool(((slots < 0) | (slots >= blocks * block)).any()):
        raise GraphError(f"paged_kv_update writes outside of a pool of {blocks} blocks of {block} tokens")
    return PagedLayout.append(pool.clone(memory_format=torch.contiguous_format), new, slots)


@evaluates("paged_attention", stepwise=True)
def _paged_attention(
    attrs: Attrs,
    sizes: Sizes,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    rows: Tensor,
    tables: Tensor,
    slopes: Tensor | None = None,
    *,
    rounding: Rounding = _unrounded,
) -> Tensor:
    """Sequence by sequence, and of a long one so many tokens at a time that their scores are within the budget."""
    block, heads = k.shape[PagedLayout.POSITION], q.shape[LINEAR.HEAD]
    axis = LINEAR.POSITION
    result = q.new_empty(*q.shape[:-1], v.shape[PagedLayout.WIDTH])
    for row in rows.unique().tolist():
        own = (rows == row).nonzero().flatten()
        length = int(positions[own].max()) + 1
        blocks = tables[row, : -(-length // block)].long()
        keys, values = (PagedLayout.read(pool.contiguous(), blocks, length) for pool in (k, v))
        seen = torch.arange(length, device=q.device)
        for some in own.split(max(1, BUDGET // (heads * length))):
            distance = seen - positions[some, None]
            mask = distance <= 0
            if attrs["window"] >= 0:
                mask &= distance >= -attrs["window"]
            bias = None if slopes is None else rounding(slopes * distance.to(q.dtype))
            step = rounding if attrs["rounded"] else _unrounded
            context = attend(q.index_select(axis, some), keys, values, mask, bias, attrs["scale"], step)
            result.index_copy_(axis, some, context)
    return result
