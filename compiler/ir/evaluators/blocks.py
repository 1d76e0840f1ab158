"""What `decode_blocks` computes: the formats of GGUF, in which a few numbers share a scale and lie beside it.

Every format is a function of the bytes of blocks, `[blocks, bytes]`, that gives integers `[blocks, numbers]`, scales
`[blocks, groups]` in float32, and what is added to the products, `[blocks, groups]`; None for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from compiler.ir.evaluators.core import Attrs, Sizes, evaluates


class Blocks(NamedTuple):
    """Numbers of blocks: integers times scales, plus offsets."""

    integers: Tensor
    scales: Tensor
    offsets: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """The numbers in float32: rounded after the product, and after the sum."""
        grouped = self.integers.float().unflatten(1, (self.scales.shape[1], -1))
        product = grouped * self.scales[:, :, None]
        total: Tensor = product if self.offsets is None else product + self.offsets[:, :, None]
        return total.flatten(1)


def _half(x: Tensor, start: int) -> Tensor:
    """The float16 at a byte of each block, as float32, `[blocks, 1]`."""
    return x[:, start : start + 2].contiguous().view(torch.float16).float()


def _shifted(x: Tensor, run: int, bits: int) -> Tensor:
    """Each run of bytes once for its lowest `bits` bits, then for the next ones, and so on."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)[None, None, :, None]
    found: Tensor = (x.unflatten(1, (-1, run))[:, :, None, :] >> shifts) & ((1 << bits) - 1)
    return found.flatten(1)


def _signed(x: Tensor, zero: int) -> Tensor:
    return x.to(torch.int16) - zero


def _fifth_bits(x: Tensor) -> Tensor:
    """The bits of four bytes, one for each of 32 numbers, in their place above four others."""
    return ((x[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(1) << 4


def _q4_0(x: Tensor) -> Blocks:
    return Blocks(_signed(_shifted(x[:, 2:], 16, 4), 8), _half(x, 0))


def _q4_1(x: Tensor) -> Blocks:
    return Blocks(_shifted(x[:, 4:], 16, 4), _half(x, 0), _half(x, 2))


def _q5_0(x: Tensor) -> Blocks:
    return Blocks(_signed(_shifted(x[:, 6:], 16, 4) | _fifth_bits(x[:, 2:6]), 16), _half(x, 0))


def _q5_1(x: Tensor) -> Blocks:
    return Blocks(_shifted(x[:, 8:], 16, 4) | _fifth_bits(x[:, 4:8]), _half(x, 0), _half(x, 2))


def _q8_0(x: Tensor) -> Blocks:
    return Blocks(x[:, 2:].contiguous().view(torch.int8), _half(x, 0))


def _q2_k(x: Tensor) -> Blocks:
    scales, d, least = x[:, :16], _half(x, 80), _half(x, 82)
    return Blocks(_shifted(x[:, 16:80], 32, 2), d * (scales & 15), -(least * (scales >> 4)))


def _q3_k(x: Tensor) -> Blocks:
    low, high = _shifted(x[:, 96:104], 8, 4), _shifted(x[:, 104:108], 4, 2)
    scales = _signed(low | high << 4, 32)
    third = _shifted(x[:, :32], 32, 1) ^ 1
    return Blocks(_signed(_shifted(x[:, 32:96], 32, 2), 0) - 4 * third.short(), _half(x, 108) * scales)


def _scales_and_least(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight offsets of six bits each in twelve bytes."""
    first, second, third = x[:, :4], x[:, 4:8], x[:, 8:]
    scales = torch.cat([first & 63, third & 15 | (first >> 2) & 48], 1)
    return scales, torch.cat([second & 63, third >> 4 | (second >> 2) & 48], 1)


def _q4_k(x: Tensor) -> Blocks:
    scales, least = _scales_and_least(x[:, 4:16])
    return Blocks(_shifted(x[:, 16:], 32, 4), _half(x, 0) * scales, -(_half(x, 2) * least))


def _q5_k(x: Tensor) -> Blocks:
    scales, least = _scales_and_least(x[:, 4:16])
    integers = _shifted(x[:, 48:], 32, 4) | _shifted(x[:, 16:48], 32, 1) << 4
    return Blocks(integers, _half(x, 0) * scales, -(_half(x, 2) * least))


def _q6_k(x: Tensor) -> Blocks:
    integers = _shifted(x[:, :128], 64, 4) | _shifted(x[:, 128:192], 32, 2) << 4
    scales = x[:, 192:208].contiguous().view(torch.int8)
    return Blocks(_signed(integers, 32), _half(x, 208) * scales)


_FORMATS: Mapping[str, Callable[[Tensor], Blocks]] = {
    "q2_k": _q2_k,
    "q3_k": _q3_k,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q4_k": _q4_k,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
    "q8_0": _q8_0,
}


@evaluates("decode_blocks", exact=True)
def _decode_blocks(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    from compiler.ir.ops.unpack import BLOCKS

    blocks = _FORMATS[attrs["format"]](x.reshape(-1, BLOCKS[attrs["format"]].nbytes))
    return _part(attrs["part"], blocks, bits=BLOCKS[attrs["format"]].bits).reshape(*x.shape[:-1], -1)


def _part(part: str, blocks: Blocks, *, bits: int) -> Tensor:
    """See the op. Scales become positive: where one is negative, integers are negated, and less one in 4 bits."""
    if part == "values":
        return blocks.values
    negative = blocks.scales < 0
    if part == "scales":
        return torch.where(blocks.scales == 0, 1.0, blocks.scales.abs())
    if part == "zeros":
        return torch.where(negative, -1, 0).to(torch.int8)
    groups = blocks.integers.short().unflatten(1, (blocks.scales.shape[1], -1))
    turned = -groups - 1 if bits <= 4 else -groups
    signed = torch.where(negative[:, :, None], turned, groups)
    return torch.where(blocks.scales[:, :, None] == 0, 0, signed).flatten(1).to(torch.int8)
