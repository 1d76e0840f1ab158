"""Quantized weights as other tools store them, packed bit by bit in plain loops."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Written(NamedTuple):
    """The tensors of a module by their last name, and the weight that they stand for, in float64."""

    tensors: dict[str, Tensor]
    weight: Tensor


Writer = Callable[[Tensor], Written]


class Rounded(NamedTuple):
    """Unsigned integers `[N, K]`, zero points and scales `[N, groups]`, the group of each column."""

    q: list[list[int]]
    zero: list[list[int]]
    scale: Tensor
    groups: list[int]

    @property
    def weight(self) -> Tensor:
        """What they stand for."""
        columns = torch.tensor(self.groups)
        q, zero = torch.tensor(self.q).double(), torch.tensor(self.zero).double()
        return (q - zero[:, columns]) * self.scale.double()[:, columns]


def rounded(weight: Tensor, bits: int, groups: Sequence[int], *, symmetric: bool) -> Rounded:
    """Quantize to unsigned integers by the smallest and largest weight of each group, with scales in float16."""
    count, top = max(groups) + 1, 2**bits - 1
    q = [[0] * weight.shape[1] for _ in weight]
    zero, scale = [[0] * count for _ in weight], torch.zeros(len(weight), count, dtype=torch.float16)
    for n, row in enumerate(weight.tolist()):
        for g in range(count):
            values = [value for value, group in zip(row, groups, strict=True) if group == g]
            low, high = min(*values, 0.0), max(*values, 0.0)
            if symmetric:
                high = max(high, -low)
                low = -high
            scale[n, g] = max((high - low) / top, 1e-3)
            zero[n][g] = (top + 1) // 2 if symmetric else min(max(round(-low / scale[n, g].item()), 1), top)
        for k, (value, g) in enumerate(zip(row, groups, strict=True)):
            q[n][k] = min(max(round(value / scale[n, g].item()) + zero[n][g], 0), top)
    return Rounded(q, zero, scale, list(groups))


def words(integers: Sequence[int], bits: int) -> list[int]:
    """Integers one after the other, from the lowest bit up, in words of 32 bits as signed numbers."""
    stream = 0
    for i, integer in enumerate(integers):
        stream |= integer << (bits * i)
    count = -(-len(integers) * bits // 32)
    found = [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(count)]
    return [word - 2**32 if word >= 2**31 else word for word in found]


def columns_of(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """The transposed matrix."""
    return [list(column) for column in zip(*rows, strict=True)]


def packed_rows(rows: Sequence[Sequence[int]], bits: int) -> Tensor:
    """Each row in words."""
    return torch.tensor([words(row, bits) for row in rows], dtype=torch.int32)


def gptq(
    *, bits: int = 4, group: int = 16, symmetric: bool = False, less_one: bool = True, order: bool = False
) -> Writer:
    """GPTQ's tensors; with `order` the groups hold columns from anywhere."""

    def write(weight: Tensor) -> Written:
        width = weight.shape[1]
        size = group if group > 0 else width
        groups = [k // size for k in range(width)]
        if order:
            generator = torch.Generator().manual_seed(width)
            groups = [groups[i] for i in torch.randperm(width, generator=generator).tolist()]
        found = rounded(weight, bits, groups, symmetric=symmetric)
        stored = [[zero - less_one for zero in row] for row in found.zero]
        tensors = {
            "qweight": packed_rows(found.q, bits).T.contiguous(),
            "qzeros": packed_rows(columns_of(stored), bits),
            "scales": found.scale.T.contiguous(),
            "g_idx": torch.tensor(groups, dtype=torch.int32),
        }
        return Written(tensors, found.weight)

    return write


def awq(*, group: int = 16) -> Writer:
    """AutoAWQ's tensors in its format gemm."""

    def shuffled(row: Sequence[int]) -> list[int]:
        return [row[8 * i + j] for i in range(len(row) // 8) for j in (0, 2, 4, 6, 1, 3, 5, 7)]

    def write(weight: Tensor) -> Written:
        found = rounded(weight, 4, [k // group for k in range(weight.shape[1])], symmetric=False)
        tensors = {
            "qweight": packed_rows([shuffled(column) for column in columns_of(found.q)], 4),
            "qzeros": packed_rows([shuffled(column) for column in columns_of(found.zero)], 4),
            "scales": found.scale.T.contiguous(),
        }
        return Written(tensors, found.weight)

    return write


def pack_quantized(*, bits: int = 4, group: int = 16, symmetric: bool = True, order: bool = False) -> Writer:
    """compressed-tensors' packed integers."""

    def write(weight: Tensor) -> Written:
        width = weight.shape[1]
        groups = [k // (group or width) for k in range(width)]
        if order:
            groups = groups[::-1][1:] + groups[-1:]
        found = rounded(weight, bits, groups, symmetric=symmetric)
        tensors = {
            "weight_packed": packed_rows(found.q, bits),
            "weight_scale": found.scale,
            "weight_shape": torch.tensor(weight.shape),
        }
        if not symmetric:
            tensors["weight_zero_point"] = packed_rows(columns_of(found.zero), bits).T.contiguous()
        if order:
            tensors["weight_g_idx"] = torch.tensor(groups, dtype=torch.int32)
        return Written(tensors, found.weight)

    return write


def int8(*, symmetric: bool = True, **more: Tensor) -> Writer:
    """int8 weights with a scale for each output, as compressed-tensors and ModelOpt store them."""

    def write(weight: Tensor) -> Written:
        found = rounded(weight, 8, [0] * weight.shape[1], symmetric=symmetric)
        tensors = {"weight": (torch.tensor(found.q) - 128).to(torch.int8), "weight_scale": found.scale, **more}
        if not symmetric:
            tensors["weight_zero_point"] = (torch.tensor(found.zero) - 128).to(torch.int8)
        return Written(tensors, found.weight)

    return write


def float8(*, by: str = "tensor", **more: Tensor) -> Writer:
    """f8e4m3 weights with a scale for all, for each output, or for each block of 8 outputs and 16 inputs."""

    def write(weight: Tensor) -> Written:
        rows, columns = {"tensor": tuple(weight.shape), "channel": (1, weight.shape[1]), "block": (8, 16)}[by]
        blocks = weight.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
        scale = blocks.abs().amax((1, 3)).float() / 448
        every = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        q = (weight / every).to(torch.float8_e4m3fn)
        stored = scale.reshape(()) if by == "tensor" else scale
        return Written({"weight": q, "weight_scale": stored, **more}, q.double() * every.double())

    return write


def modelopt_int4(*, group: int = 16, factors: bool = False) -> Writer:
    """ModelOpt's int4: two outputs in a byte; with `factors` the inputs are scaled first."""

    def write(weight: Tensor) -> Written:
        width = weight.shape[1]
        factor = torch.linspace(0.5, 2.0, width, dtype=torch.float16) if factors else torch.ones(width)
        scaled = weight / factor.to(weight.dtype)
        found = rounded(scaled, 4, [k // group for k in range(width)], symmetric=True)
        signed = [[(q - 8) & 15 for q in row] for row in found.q]
        pairs = [
            [low | high << 4 for low, high in zip(even, odd, strict=True)]
            for even, odd in zip(signed[::2], signed[1::2], strict=True)
        ]
        tensors: dict[str, Any] = {"weight": torch.tensor(pairs, dtype=torch.uint8), "weight_scale": found.scale}
        if factors:
            tensors["pre_quant_scale"] = factor
        return Written(tensors, found.weight * factor.double())

    return write
