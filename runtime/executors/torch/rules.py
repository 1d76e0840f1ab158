"""How each kind of op becomes a torch call: the rules behind the lowering."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compiler.errors import TargetError
from compiler.ir.op import Op
from compiler.ir.packed_step import BLOCK_TABLES, TOKEN_POSITIONS, TOKEN_ROWS
from compiler.ir.step import NEW_LEN, PAST_LEN
from compiler.ir.torch_types import to_torch
from runtime.executors.torch.lowering import Lowering, lowers
from runtime.executors.torch.quantized import feeds_integers, packed_linear

_ADDRESSES = (TOKEN_POSITIONS, TOKEN_ROWS, BLOCK_TABLES)

# Operands stand in their order, attributes by their names.
_CALLS = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "less": "{} < {}",
    "less_equal": "{} <= {}",
    "logical_and": "{} & {}",
    "where": "torch.where({}, {}, {})",
    "relu": "torch.relu({})",
    "silu": "F.silu({})",
    "sigmoid": "torch.sigmoid({})",
    "tanh": "torch.tanh({})",
    "cos": "torch.cos({})",
    "sin": "torch.sin({})",
    "scale": "{} * {factor}",
    "clamp": "{}.clamp({min}, {max})",
    "reshape": "{}.reshape({shape})",
    "broadcast": "{}.expand({shape})",
    "transpose": "{}.permute({perm})",
    "slice": "{}.narrow({axis}, {start}, {size})",
    "softmax": "torch.softmax({}, {axis})",
    "amax": "{}.abs().amax({axis}, True)",
    "gather_rows": "kernels.gather_rows({}, {})",
    "all_reduce": "kernels.all_reduce({}, group)",
    "all_max": "group.all_max({}.clone())",
    "all_gather": "group.all_gather({}, {axis})",
}


@lowers(*_CALLS)
def _call(state: Lowering, op: Op) -> str:
    attrs = {name: _text(value) for name, value in op.attrs.items()}
    return _CALLS[op.kind.name].format(*map(state.ref, op.operands), **attrs)


def _text(value: object) -> str:
    """An attribute in Python; symbolic dims are variables."""
    if isinstance(value, tuple):
        return "(" + "".join(f"{item}, " for item in value) + ")"
    return str(value) if not isinstance(value, float) or math.isfinite(value) else f"float('{value}')"


@lowers("iota")
def _iota(state: Lowering, op: Op) -> str:
    dtype = to_torch(op.attrs["dtype"])
    return f"torch.arange({op.attrs['size']}, dtype={dtype}, device=device)"


@lowers("cast")
def _cast(state: Lowering, op: Op) -> str:
    x = state.ref(op.operands[0])
    dtype = state.dtype(op.result)
    return x if dtype is state.dtype(op.operands[0]) else f"{x}.to({dtype})"


@lowers("gelu")
def _gelu(state: Lowering, op: Op) -> str:
    return f"F.gelu({state.ref(op.operands[0])}, approximate={'tanh' if op.attrs['tanh'] else 'none'!r})"


@lowers("split")
def _split(state: Lowering, op: Op) -> str:
    pieces = f"{state.ref(op.operands[0])}.split({op.attrs['sizes']}, {op.attrs['axis']})"
    return pieces if len(op.results) > 1 else f"{pieces}[0]"


@lowers("concat")
def _concat(state: Lowering, op: Op) -> str:
    return f"torch.cat(({', '.join(map(state.ref, op.operands))},), {op.attrs['axis']})"


@lowers("embedding")
def _embedding(state: Lowering, op: Op) -> str:
    table, ids = op.operands
    if table.name not in state.constant:
        return f"F.embedding({state.ref(ids)}, {state.ref(table)})"
    # The table stays as it is stored, in the mapped file if it can: a step touches few of its rows.
    stored = state.load(table).to(state.device)
    rows = f"F.embedding({state.ref(ids)}, {state.hold(f'{table.name}.table', stored)})"
    return rows if stored.dtype is state.dtype(op.result) else f"{rows}.to({state.dtype(op.result)})"


@lowers("linear")
def _linear(state: Lowering, op: Op) -> str:
    x, weight, *bias = op.operands
    if weight.name in state.packed and all(value.name in state.constant for value in bias):
        held = state.hold(f"{op.name}.linear", packed_linear(state, op))
        return f"{held}({state.ref(x)})"
    if any(value.name not in state.constant for value in (weight, *bias)):
        return f"F.linear({', '.join(map(state.ref, op.operands))})"
    packed = state.pack(state.load(weight), state.load(bias[0]) if bias else None)
    return f"{state.hold(f'{op.name}.linear', packed)}({state.ref(x)})"


@lowers("quantize")
def _quantize(state: Lowering, op: Op) -> str:
    x, scale, *zero = map(state.ref, op.operands)
    dtype = state.hold(f"{op.name}.dtype", op.attrs["dtype"])
    return f"kernels.quantize({x}, {scale}, {zero[0] if zero else None}, {dtype})"


@lowers("dequantize")
def _dequantize(state: Lowering, op: Op) -> str:
    q, scale, *zero = map(state.ref, op.operands)
    if feeds_integers(state, op):
        return f"({q}, {scale})"
    if _feeds_paged_attention(state, op):
        return f"({', '.join([q, scale, *zero])})"
    return f"kernels.dequantize({q}, {scale}.float(), {zero[0] if zero else None}).to({state.dtype(op.result)})"


@lowers("matmul")
def _matmul(state: Lowering, op: Op) -> str:
    a, b = map(state.ref, op.operands)
    return f"torch.matmul({a}, {b}{'.transpose(-1, -2)' if op.attrs['transpose_b'] else ''})"


@lowers("layer_norm", "rms_norm")
def _norm(state: Lowering, op: Op) -> str:
    x, *parameters = map(state.ref, op.operands)
    missing = 2 - len(parameters) if op.kind.name == "layer_norm" else 1 - len(parameters)
    arguments = [x, f"({op.operands[0].type.shape[-1]},)", *parameters, *["None"] * missing, repr(op.attrs["eps"])]
    return f"F.{op.kind.name}({', '.join(arguments)})"


@lowers("rotary")
def _rotary(state: Lowering, op: Op) -> str:
    x, cos, sin = map(state.ref, op.operands)
    prepare, rotate = ("pair_angles", "rotate_pairs") if op.attrs["interleaved"] else ("half_angles", "rotate_halves")
    angles = state.once((prepare, cos, sin), f"kernels.{prepare}({cos}, {sin})")
    return f"kernels.{rotate}({x}, {angles})"


def _feeds_paged_attention(state: Lowering, op: Op) -> bool:
    """Whether an op dequantizes a pool for attention only, which does so with the blocks that it reads."""
    users = state.graph.users.get(op.name, ())
    return (
        bool(users)
        and op.result not in state.graph.outputs.values()
        and all(user.kind.name == "paged_attention" and op.result in user.operands[1:3] for user in users)
    )


def _check_in_place(state: Lowering, op: Op, wanted: Sequence[str]) -> None:
    """TargetError unless an op replaces a cache of the graph, which nothing else uses, and has these operands last."""
    cache, graph = op.operands[0], state.graph
    in_place = (
        graph.outputs.get(cache.name) == op.result
        and cache in graph.inputs
        and all(user.name == op.name for user in graph.users[cache.name])
    )
    if not in_place or [value.name for value in op.operands[2:]] != [*wanted]:
        raise TargetError(
            f"{op.kind.name} %{op.name} from {op.origin} does not replace a cache of the step graph in place",
            hint=f"a cache is an input whose only use is the {op.kind.name} (at {', '.join(wanted)}) that is its "
            "output",
        )


@lowers("kv_update")
def _kv_update(state: Lowering, op: Op) -> str:
    _check_in_place(state, op, (PAST_LEN, NEW_LEN))
    return f"kernels.append({state.ref(op.operands[0])}, {state.ref(op.operands[1])}, writes)"


@lowers("paged_kv_update")
def _paged_kv_update(state: Lowering, op: Op) -> str:
    _check_in_place(state, op, _ADDRESSES)
    return f"paged.paged_append({state.ref(op.operands[0])}, {state.ref(op.operands[1])}, writes)"


@lowers("paged_attention")
def _paged_attention(state: Lowering, op: Op) -> str:
    """Like that of `attention`; which tokens are whose is in what the session hands to the function."""
    q, k, v, *addresses = op.operands[:6]
    if [value.name for value in addresses] != [*_ADDRESSES]:
        raise TargetError(
            f"paged_attention %{op.name} from {op.origin} finds its tokens otherwise than the step says",
            hint=f"it takes {', '.join(_ADDRESSES)} of the step graph",
        )
    slopes = state.ref(op.operands[6]) if len(op.operands) > 6 else None
    scale, window = op.attrs["scale"], op.attrs["window"]
    operands = ", ".join(map(state.ref, (q, k, v)))
    return f"paged.paged_attention({operands}, writes, {scale!r}, {slopes}, {window})"


@lowers("attention")
def _attention(state: Lowering, op: Op) -> str:
    """One kernel for either value of `rounded`, which allows more precision than it asks for."""
    q, k, v, mask, *bias = map(state.ref, op.operands)
    extra = bias[0] if bias else "None"
    # The mask is the same in all layers, so this is computed once; it lives until the step ends.
    dtype = state.dtype(op.result)
    additive = state.once(("additive", mask, extra), f"kernels.additive_mask({mask}, {extra}, {dtype})")
    return f"kernels.attention({q}, {k}, {v}, {additive}, {op.attrs['scale']!r})"
