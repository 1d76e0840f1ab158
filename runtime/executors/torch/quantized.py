"""Products with quantized weights, which stay packed in memory.

torch has kernels for CPUs that read int8 and int4 weights as they are, fast for bfloat16 activations only: about 0.3%
of error, far less than the rounding of the weights makes. They serve models that compute in 16 bits. Where both sides
are int8 the integers are multiplied, exactly. Everything else (float32, zero points, fp8, other groups) is dequantized
tile by tile, each tile small enough for a cache, and multiplied in float32; on a GPU in the type of the activations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.int4 import pack_int4
from compiler.ir.op import Op
from runtime.executors.torch.lowering import Lowering
from runtime.executors.torch.packed import TILE, PackedWeight

Product = Callable[[Tensor], Tensor]

_INT4_GROUPS = (256, 128, 64, 32)
# torch's int8 kernel reads whole vectors: of other rows it reads beyond the end, and computes wrong or crashes.
_INT8_COLUMNS = 32
# A float32 holds every integer up to 2**24, which is as much as so many products of int8 can add up to.
_EXACT_TERMS = 2**24 // (128 * 128)
_HALVES = (DType.f16, DType.bf16)


def packed_linear(state: Lowering, op: Op) -> Callable[..., Tensor]:
    """The function that multiplies the input of a linear by its dequantized constant weight."""
    _, weight, *bias = op.operands
    packed = load_packed(state, state.packed[weight.name])
    added = state.load(bias[0]).to(state.device, state.dtype(op.result)) if bias else None
    source = state.graph.producers.get(op.operands[0].name)
    if source is not None and source.kind.name == "dequantize" and feeds_integers(state, source):
        return _integer_product(packed, added)
    if state.device.type == "cpu" and op.result.type.dtype in _HALVES and (product := _kernel(packed)) is not None:
        return _with_bias(product, added)
    return _with_bias(lambda x: tiled_product(x, packed), added)


def feeds_integers(state: Lowering, op: Op) -> bool:
    """Whether an op dequantizes int8 activations for linears only, whose weights are int8 with a scale per row."""
    q, scale, *zero = op.operands
    users = state.graph.users.get(op.name, ())
    return (
        state.device.type == "cpu"
        and q.type.dtype is DType.i8
        and not zero
        and scale.type.shape[-1] == 1
        and op.result not in state.graph.outputs.values()
        and bool(users)
        and all(user.kind.name == "linear" and _takes_integers(state, user, op) for user in users)
    )


def _takes_integers(state: Lowering, linear: Op, source: Op) -> bool:
    weight = state.packed.get(linear.operands[1].name)
    return (
        linear.operands[0] == source.result
        and weight is not None
        and all(value.name in state.constant for value in linear.operands[2:])
        and weight.operands[0].type.dtype is DType.i8
        and len(weight.operands) == 2
        and weight.operands[1].type.shape[1] == 1
        and weight.operands[1].type.shape[0] in (1, weight.operands[0].type.shape[0])
    )


def load_packed(state: Lowering, op: Op) -> PackedWeight:
    q, scale, *zero = op.operands
    values = state.load(q)
    if q.type.dtype is DType.i4:
        values = pack_int4(values)
    n, k = q.type.sizes({})
    return PackedWeight(
        values.to(state.device),
        state.load(scale).to(state.device, torch.float32),
        state.load(zero[0]).to(state.device) if zero else None,
        (n, k),
        q.type.dtype,
    )


def _with_bias(product: Product, bias: Tensor | None) -> Product:
    return product if bias is None else lambda x: product(x) + bias


def tiled_product(x: Tensor, weight: PackedWeight) -> Tensor:
    """`x @ weight.T` for `x [..., K]`, in the type of `x`; no more than a tile of the weight is ever dequantized."""
    parts = [torch.nn.functional.linear(x, tile.to(x.dtype)) for _, tile in weight.tiles()]
    return torch.cat(parts, -1)


def _integer_product(weight: PackedWeight, bias: Tensor | None) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
    transposed, scale = weight.q.t(), weight.scale.reshape(-1)
    multiply = torch._int_mm if _has_integer_product() else exact_integer_product

    def product(given: tuple[Tensor, Tensor]) -> Tensor:
        q, scales = given
        sums = multiply(q.reshape(-1, q.shape[-1]), transposed).view(*q.shape[:-1], -1)
        result = sums.float() * scale * scales.float()
        return result if bias is None else result + bias

    return product


def exact_integer_product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` in int32, for int8 `a [M, K]` and `b [K, N]`, by products of floats that hold every sum exactly."""
    sums = torch.zeros(len(a), b.shape[1], dtype=torch.int32)
    step = max(TILE // _EXACT_TERMS, 1)
    for k in range(0, len(b), _EXACT_TERMS):
        left = a[:, k : k + _EXACT_TERMS].float()
        for n in range(0, b.shape[1], step):
            sums[:, n : n + step] += (left @ b[k : k + _EXACT_TERMS, n : n + step].float()).int()
    return sums


@cache
def _has_integer_product() -> bool:
    """Whether this CPU has instructions that multiply int8 matrices, and torch's product uses them right.

    Without them it is a slow loop; and what oneDNN makes of them on older CPUs saturates pairs of products in 16 bits.
    """
    extremes = torch.tensor([127, -128], dtype=torch.int8)
    a, b = extremes[:, None].expand(2, 64).contiguous(), extremes.repeat(8)[:, None].expand(16, 64).contiguous().t()
    try:
        return torch.cpu._is_vnni_supported() and torch.equal(torch._int_mm(a, b), exact_integer_product(a, b))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def _kernel(weight: PackedWeight) -> Product | None:
    """Torch's own product for a weight, if it has one that works here."""
    columns = weight.shape[1]
    if weight.zero is not None or weight.scale.shape[0] != weight.shape[0]:
        return None
    groups = weight.scale.shape[1]
    if weight.dtype is DType.i8 and groups == 1 and columns % _INT8_COLUMNS == 0 and _works(DType.i8):
        return _int8_product(weight)
    if weight.dtype is DType.i4 and weight.shape[0] % 16 == 0 and _works(DType.i4):
        size = next((size for size in _INT4_GROUPS if columns // groups % size == 0), None)
        return _int4_product(weight, size) if size else None
    return None


def _int8_product(weight: PackedWeight) -> Product:
    q, scale = weight.q.clone(), weight.scale.reshape(-1)  # out of the mapped file
    ones = torch.ones(len(scale), dtype=torch.bfloat16)

    def product(x: Tensor) -> Tensor:
        flat = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]).bfloat16(), q, ones)
        return (flat.float() * scale).view(*x.shape[:-1], -1)

    return product


def _int4_product(weight: PackedWeight, group: int) -> Product:
    rows, columns = weight.shape
    values = weight.rows(0, rows).int() + 8
    packed = torch._convert_weight_to_int4pack_for_cpu(values, 1)
    scales = weight.scale.repeat_interleave(columns // group // weight.scale.shape[1], 1)
    # Relative to the largest of a row, which is multiplied in float32, so that a scale per row is not rounded.
    largest = scales.amax(1, keepdim=True)
    table = torch.stack([scales / largest, torch.zeros_like(scales)], -1).transpose(0, 1).contiguous().bfloat16()
    largest = largest.reshape(-1)

    def product(x: Tensor) -> Tensor:
        flat = torch._weight_int4pack_mm_for_cpu(x.reshape(-1, columns).bfloat16(), packed, group, table)
        return (flat.float() * largest).view(*x.shape[:-1], rows)

    return product


@cache
def _works(dtype: DType) -> bool:
    """Whether torch's kernel exists here and computes a small product of small integers, which all types hold."""
    values = (torch.arange(16 * 32).reshape(16, 32) % 15 - 7).to(torch.int8)
    q = pack_int4(values) if dtype is DType.i4 else values
    weight = PackedWeight(q, torch.full((16, 1), 0.5), None, (16, 32), dtype)
    x = (torch.arange(3 * 32).reshape(3, 32) % 3 - 1).float()
    try:
        product = _int4_product(weight, 32) if dtype is DType.i4 else _int8_product(weight)
        return bool(torch.allclose(product(x), x @ (values.float().T * 0.5), rtol=0.01))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
