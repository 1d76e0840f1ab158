"""Scales and activations, as compressed-tensors and ModelOpt store them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compiler.errors import CheckpointError
from compiler.frontends.quantized.packed import Enter, wide
from compiler.ir.builder import Builder
from compiler.ir.cache_layout import LINEAR
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

if TYPE_CHECKING:
    from compiler.frontends.weights import Weights

SCALES = (DType.f32, DType.f16, DType.bf16)
LARGEST = {DType.i8: 127, DType.f8e4m3: 448}
# Rows of zeros need a scale as well.
_LEAST_SCALE = 2.0**-24


def weight_scale(
    weights: Weights, tensor: str, out: int, width: int, name: str, block: Sequence[int] | None = None
) -> Value:
    """Scales in float32, `[1, 1]`, `[N, 1]` or one for each block of a weight `[out, width]`.

    Args:
        weights: the checkpoint's.
        tensor: the scales' name.
        out: the outputs.
        width: the inputs.
        name: what to call the value.
        block: the shape of the blocks; None for what the scales' shape says.

    Raises:
        CheckpointError: if the blocks do not divide the weight, or there are more or fewer scales than blocks.
    """
    b = weights.b
    shape = weights.shape(tensor)
    if len(shape) <= 1:
        full: tuple[int, ...] = (*shape, 1) if shape else (1, 1)
    else:
        full = shape
    if len(full) != 2 or any(n < 1 or size % n for n, size in zip(full, (out, width), strict=True)):
        raise CheckpointError(
            f"the tensor {tensor!r} is {shape_text(shape)}, which is no scale for blocks of [{out},{width}]",
            hint="config.json and the weights belong to different models, or the group size does not divide the inputs",
        )
    if block is not None and tuple(block) != (found := (out // full[0], width // full[1])):
        raise CheckpointError(
            f"the tensor {tensor!r} is {shape_text(shape)}, which is a scale for each {shape_text(found)} of "
            f"[{out},{width}]; the config says {shape_text(tuple(block))}",
            hint="config.json and the weights belong to different models, or the blocks do not divide the weight",
        )
    stored = weights.raw(tensor, *shape, dtypes=SCALES, name=f"{name}.stored")
    scale = wide(b, stored, f"{name}.f32")
    return scale if full == shape else b.reshape(scale, shape=full, name=name)


def single(weights: Weights, tensor: str, shape: Sequence[int], dtypes: Sequence[DType], name: str) -> Value:
    """A stored number under another shape, of one element."""
    stored = weights.shape(tensor)
    if any(size != 1 for size in stored):
        raise CheckpointError(f"the tensor {tensor!r} is {shape_text(stored)}, not one number")
    value = weights.raw(tensor, *stored, dtypes=dtypes, name=f"{name}.stored")
    return weights.b.reshape(value, shape=tuple(shape), name=name)


def static_input(weights: Weights, module: str, dtype: DType, name: str, *, zero: bool = False) -> Enter:
    """Quantizes inputs by the scale `input_scale`, and with `zero` by `input_zero_point`, too."""
    b = weights.b
    stored = single(weights, f"{module}.input_scale", (1, 1, 1), SCALES, f"{name}.input_scale.single")
    scale = wide(b, stored, f"{name}.input_scale")
    offset = single(weights, f"{module}.input_zero_point", (1, 1, 1), (dtype,), f"{name}.input_zero") if zero else None

    def enter(b: Builder, x: Value) -> Value:
        q = b.quantize(x, scale, offset, dtype=dtype, name="x.packed")
        return b.dequantize(q, scale, offset, dtype=x.type.dtype, name="x.rounded")

    return enter


def token_input(dtype: DType) -> Enter:
    """Quantizes inputs by a scale for each token, from its largest absolute value."""

    def enter(b: Builder, x: Value) -> Value:
        largest = b.amax(wide(b, x, "x.f32"), axis=-1, name="x.amax")
        ratio = b.scale(largest, factor=1 / LARGEST[dtype], name="x.ratio")
        scale = b.clamp(ratio, min=_LEAST_SCALE, max=float("inf"), name="x.scale")
        q = b.quantize(x, scale, dtype=dtype, name="x.packed")
        return b.dequantize(q, scale, dtype=x.type.dtype, name="x.rounded")

    return enter


def scaled_input(weights: Weights, tensor: str, width: int, name: str) -> Enter:
    """Multiplies inputs by stored factors, one for each."""
    factors = weights.take(tensor, width, name=f"{name}.pre_quant_scale")

    def enter(b: Builder, x: Value) -> Value:
        return b.mul(x, factors, name="x.scaled")

    return enter


def divided_input(weights: Weights, tensor: str, width: int, name: str) -> Enter:
    """Divides inputs by stored numbers, one for each."""
    numbers = weights.take(tensor, width, name=f"{name}.smoother")

    def enter(b: Builder, x: Value) -> Value:
        return b.div(x, numbers, name="x.smoothed")

    return enter


def chained(*steps: Enter | None) -> Enter | None:
    """One after the other, those that are there; None if none is."""
    present = [step for step in steps if step is not None]
    if not present:
        return None

    def enter(b: Builder, x: Value) -> Value:
        for step in present:
            x = step(b, x)
        return x

    return enter


def stored_cache_scale(weights: Weights, tensors: Sequence[str], heads: int, name: str) -> Value:
    """The scale of a cache from the first of the tensors that is there, for all heads or one each, in float32."""
    tensor = next(filter(weights.has, tensors), tensors[0])
    shape = weights.shape(tensor)
    count = max(shape, default=1)
    if count not in (1, heads) or sum(size != 1 for size in shape) > 1:
        raise CheckpointError(f"the tensor {tensor!r} is {shape_text(shape)}, not one scale for all heads or one each")
    stored = weights.raw(tensor, *shape, dtypes=SCALES, name=f"{name}.stored")
    column = weights.b.reshape(stored, shape=LINEAR.shaped(1, count, 1, 1), name=f"{name}.by_head")
    return wide(weights.b, column, name)
