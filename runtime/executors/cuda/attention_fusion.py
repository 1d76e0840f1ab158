"""Attention in one call, from the rows of a product to the context, with rotary embedding and the write of caches.

q, k, v [1, T, heads * D] -> heads first -> rotary -> (quantize) -> paged_kv_update -> paged_attention -> context
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.op import Op, Value
from compiler.ir.packed_step import BLOCK_TABLES, TOKEN_POSITIONS, TOKEN_ROWS
from compiler.ir.paged_layout import PagedLayout
from runtime.executors.cuda.access import StepAccess
from runtime.executors.cuda.dataflow import Dataflow, fixed
from runtime.executors.cuda.kernels.attention import AttentionForm, CacheScales, Rotary, Workspace, attend
from runtime.executors.torch.lowering import Fusion, Lowering

_ADDRESSES = (TOKEN_POSITIONS, TOKEN_ROWS, BLOCK_TABLES)
_ROWS_AND_HEADS = (0, 2, 1, 3)
"""The permutation between `[1, T, heads, D]` and `[1, heads, T, D]`."""


@dataclass(frozen=True)
class _Turn:
    """How a value is turned: the angles, and which dims pair."""

    cos: Value
    sin: Value
    interleaved: bool


@dataclass(frozen=True)
class _Rows:
    """Rows of heads `[1, T, heads * D]`, and the ops that lay them out by heads and turn them."""

    value: Value
    ops: tuple[Op, ...]
    turn: _Turn | None


@dataclass(frozen=True)
class _Stored:
    """What is written to a pool, and how it is quantized."""

    rows: _Rows
    update: Op
    ops: tuple[Op, ...]
    scale: Value | None


@dataclass(frozen=True)
class _Attention:
    """An attention of the usual form, and what lies around it.

    Attributes:
        op: the attention.
        q: what its queries are made of.
        k: what was written to its keys.
        v: what was written to its values.
        slopes: of ALiBi.
        after: the ops that lay the context out as rows of heads.
    """

    op: Op
    q: _Rows
    k: _Stored
    v: _Stored
    slopes: Value | None
    after: tuple[Op, Op]


def attention_fusions(flow: Dataflow) -> Iterator[Fusion]:
    """A fusion for each `paged_attention` whose operands and result have the usual form."""
    for op in flow.graph.find("paged_attention"):
        found = _attention(flow, op)
        if isinstance(found, _Attention):
            yield _fusion(flow, found)


def why_apart(flow: Dataflow, op: Op) -> str:
    """What is unusual about an attention that is in no fusion, as the rest of a sentence; empty if nothing is."""
    found = _attention(flow, op)
    return found if isinstance(found, str) else ""


def _attention(flow: Dataflow, op: Op) -> _Attention | str:
    """An attention of the usual form; or what is unusual about it."""
    q = _rows(flow, op.operands[0])
    if q is None:
        return "its queries are not rows of heads that nothing else uses"
    k, v = (_stored(flow, value) for value in op.operands[1:3])
    if k is None or v is None:
        return "what it reads is not what rows of heads were written as, with a stored scale for each head or none"
    if (k.scale is None) != (v.scale is None):
        return "of keys and values, one is quantized and the other is not"
    if q.turn != k.rows.turn or v.rows.turn is not None:
        return "queries and keys are not turned alike, or values are turned"
    if not op.operands[0].type.shape[-1] == op.operands[1].type.shape[-1] == op.operands[2].type.shape[-1]:
        return "its queries, keys and values have heads of different widths"
    slopes = op.operands[6] if len(op.operands) > 6 else None
    if slopes is not None and slopes.name not in flow.constant:
        return "the slopes of ALiBi are computed while the model runs"
    if [value.name for value in op.operands[3:6]] != [*_ADDRESSES]:
        return "it does not read where the step's tokens lie"
    if op.attrs["scale"] <= 0:
        return f"its scale is {op.attrs['scale']}"
    heads_last = flow.only_user(op.result)
    merged = None if heads_last is None else flow.only_user(heads_last.result)
    if (
        heads_last is None
        or heads_last.kind.name != "transpose"
        or heads_last.attrs["perm"] != _ROWS_AND_HEADS
        or merged is None
        or merged.kind.name != "reshape"
        or len(merged.result.type.shape) != 3
    ):
        return "its context is not laid out as rows of heads, or something else uses it"
    return _Attention(op, q, k, v, slopes, (heads_last, merged))


def _fusion(flow: Dataflow, found: _Attention) -> Fusion:
    op, q, k, v = found.op, found.q, found.k, found.v
    ops = flow.claim((*q.ops, *k.rows.ops, *k.ops, *v.rows.ops, *v.ops, op, *found.after))
    return Fusion("attention", ops, lambda state: _lines(state, op, found.after[-1], q, k, v, found.slopes))


def _rows(flow: Dataflow, value: Value) -> _Rows | None:
    """The rows that a value `[1, heads, T, D]` is made of, if nothing else uses what lies between."""
    turn, ops = None, []
    if (rotary := flow.maker(value, "rotary")) is not None and flow.only_user(value):
        value, cos, sin = rotary.operands
        turn = _Turn(cos, sin, bool(rotary.attrs["interleaved"]))
        ops.append(rotary)
    heads = flow.maker(value, "transpose")
    if heads is None or heads.attrs["perm"] != _ROWS_AND_HEADS or not flow.only_user(value):
        return None
    split = flow.maker(heads.operands[0], "reshape")
    if split is None or not flow.only_user(heads.operands[0]) or len(split.operands[0].type.shape) != 3:
        return None
    return _Rows(split.operands[0], (*ops, heads, split), turn)


def _stored(flow: Dataflow, value: Value) -> _Stored | None:
    """What was written to a pool that attention reads, dequantized or not."""
    ops: list[Op] = []
    read_scale = None
    if (read := flow.maker(value, "dequantize")) is not None:
        if len(read.operands) > 2 or not flow.only_user(value):
            return None
        value, read_scale = read.operands
        ops.append(read)
    update = flow.maker(value, "paged_kv_update")
    if update is None or flow.graph.outputs.get(update.operands[0].name) != update.result:
        return None
    if [each.name for each in update.operands[2:]] != [*_ADDRESSES] or len(flow.users(update.result)) != 1:
        return None
    new, scale = update.operands[1], None
    if read_scale is not None:
        write = flow.maker(new, "quantize")
        if write is None or len(write.operands) > 2 or not flow.only_user(new):
            return None
        new, scale = write.operands
        if not _same_scales(flow, scale, read_scale):
            return None
        ops.append(write)
    rows = _rows(flow, new)
    return None if rows is None else _Stored(rows, update, (*ops, update), scale)


def _same_scales(flow: Dataflow, written: Value, read: Value) -> bool:
    """Whether the scale of what is read is, for each head, that of what is written, and stored."""
    moved = flow.graph.producers.get(read.name)
    heads_alone = all(dim == 1 for axis, dim in enumerate(written.type.shape) if axis != LINEAR.HEAD)
    return (
        heads_alone
        and written.name in flow.constant
        and moved is not None
        and moved.kind.name == "reshape"
        and moved.operands[0] == written
    )


class AttentionCall:
    """`attend` with what is the same in every step."""

    def __init__(
        self, form: AttentionForm, workspace: Workspace, slopes: Tensor | None, scales: CacheScales | None
    ) -> None:
        self.form, self.workspace, self.slopes, self.scales = form, workspace, slopes, scales

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_pool: Tensor,
        v_pool: Tensor,
        access: StepAccess,
        turn: Rotary | None = None,
    ) -> Tensor:
        """The context `[1, T, heads * D]` of rows of that shape; the pools take up keys and values in place."""
        q, k, v = (each.squeeze(0) for each in (q, k, v))
        pools, space = (k_pool, v_pool), self.workspace
        return attend(
            q, k, v, *pools, access.addresses, self.form, turn, self.slopes, self.scales, workspace=space
        ).unsqueeze(0)


def rotary_angles(cos: Tensor, sin: Tensor, interleaved: bool) -> Rotary:
    """The angles of a step's tokens, from `[1, T, R/2]`."""
    return Rotary(cos.squeeze(0).contiguous(), sin.squeeze(0).contiguous(), interleaved)


def _lines(
    state: Lowering, op: Op, merged: Op, q: _Rows, k: _Stored, v: _Stored, slopes: Value | None
) -> Sequence[str]:
    shape = op.operands[0].type.shape
    heads, width = fixed(shape[LINEAR.HEAD]), fixed(shape[LINEAR.WIDTH])
    kv_heads = fixed(k.update.operands[0].type.shape[PagedLayout.HEAD])
    form = AttentionForm(heads, kv_heads, width, op.attrs["scale"], op.attrs["window"])
    scales = None
    if k.scale is not None and v.scale is not None:
        scales = CacheScales(*(_per_head(state, scale, kv_heads) for scale in (k.scale, v.scale)))
    held_slopes = None if slopes is None else state.load(slopes).to(state.device, torch.float32).reshape(-1)
    call = AttentionCall(form, workspace_of(state), held_slopes, scales)
    name = state.hold(f"{op.name}.attend", call)
    arguments = [state.ref(each.value) for each in (q, k.rows, v.rows)]
    arguments += [state.ref(each.update.operands[0]) for each in (k, v)]
    arguments.append("writes")
    lines = []
    if q.turn is not None:
        cos, sin = state.ref(q.turn.cos), state.ref(q.turn.sin)
        key = ("rotary", cos, sin, f"{q.turn.interleaved}")
        if key not in state.shared:
            make = state.hold("rotary_angles", rotary_angles)
            state.once(key, f"{make}({cos}, {sin}, {q.turn.interleaved})")
        arguments.append(state.shared[key])
    lines.append(f"{state.ref(merged.result)} = {name}({', '.join(arguments)})")
    lines += [f"{state.ref(each.update.result)} = {state.ref(each.update.operands[0])}" for each in (k, v)]
    return lines


def _per_head(state: Lowering, scale: Value, heads: int) -> Tensor:
    stored = state.load(scale).to(state.device, torch.float32).reshape(-1)
    return stored.expand(heads).contiguous()


def workspace_of(state: Lowering) -> Workspace:
    """The one workspace of a program's kernels."""
    found = next((thing for thing in state.globals.values() if isinstance(thing, Workspace)), None)
    if found is None:
        found = Workspace()
        state.hold("workspace", found)
    return found
