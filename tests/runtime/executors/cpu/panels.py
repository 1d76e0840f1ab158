"""Random weights in panels, as weight.h describes them, and what they are in float64."""

import ctypes
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

PANEL = 16
STORED = {"f32": 0, "f16": 1, "bf16": 2, "f8": 3, "i8": 4, "i4": 5}
FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f8": torch.float8_e4m3fn}
BF16 = 2


class WeightStruct(ctypes.Structure):
    """See `Weight` in weight.h."""

    _fields_: ClassVar = [
        ("n", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("integers", ctypes.c_int32),
        ("groups", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("panels", "scales", "zeros", "sums", "bias")),
        ("round_to", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    ]


@dataclass
class Weight:
    """A weight in panels.

    Attributes:
        struct: what kernels read.
        values: what it is, float64 [n, k].
        bias: float64 [n].
        memory: what the struct points to.
    """

    struct: WeightStruct
    values: Tensor
    bias: Tensor
    memory: list[Tensor | None] = field(default_factory=list)


def random_weight(
    n: int,
    k: int,
    stored: str,
    *,
    groups: int = 0,
    zeros: bool = False,
    integers: bool = False,
    bias: bool = True,
    round_to: int = 0,
    seed: int = 0,
) -> Weight:
    """A random weight: `stored` is a key of STORED; groups, zeros, integers and round_to as in weight.h."""
    random = torch.Generator().manual_seed(seed)
    padded = -(-n // PANEL) * PANEL
    scales = zero_points = None
    if stored in FLOATS:
        numbers = (torch.randn(n, k, generator=random) / 4).to(FLOATS[stored])
    else:
        low, high = (-8, 8) if stored == "i4" else (-128, 128)
        numbers = torch.randint(low, high, (n, k), generator=random, dtype=torch.int8)
        groups = groups or 1
    values = numbers.double()
    if groups:
        scales = torch.rand(n, groups, generator=random) / 100 + 0.01
        points = torch.randint(-8, 8, (n, groups), generator=random).float() if zeros else torch.zeros(n, groups)
        zero_points = points * scales if zeros else None
        group = k // groups
        values = (values - points.double().repeat_interleave(group, 1)) * scales.double().repeat_interleave(group, 1)
    offset = torch.randn(n, generator=random) if bias else None
    sums = numbers.double().sum(1).float() if integers else None
    memory = [
        _panels(numbers, padded, stored, integers),
        *(None if of is None else _by_panel(of, padded) for of in (scales, zero_points)),
        *(None if of is None else torch.nn.functional.pad(of, (0, padded - n)) for of in (sums, offset)),
    ]
    addresses = [None if of is None else of.data_ptr() for of in memory]
    struct = WeightStruct(n, k, STORED[stored], int(integers), groups, *addresses, round_to)
    return Weight(struct, values, torch.zeros(n).double() if offset is None else offset.double(), memory)


def _by_panel(numbers: Tensor, padded: int) -> Tensor:
    """[n, groups] as [n / 16, groups, 16]."""
    rows = torch.nn.functional.pad(numbers, (0, 0, 0, padded - len(numbers)))
    return rows.view(padded // PANEL, PANEL, -1).transpose(1, 2).contiguous()


def _panels(numbers: Tensor, padded: int, stored: str, integers: bool) -> Tensor:
    n, k = numbers.shape
    if stored in FLOATS and stored != "f8":
        return _by_panel(numbers, padded)
    if stored == "f8":
        return _by_panel(numbers.view(torch.int8), padded)
    unit = 8 if stored == "i4" else 4 if integers else 1
    whole = torch.nn.functional.pad(numbers, (0, -(-k // unit) * unit - k, 0, padded - n))
    panels = whole.view(padded // PANEL, PANEL, -1, unit).transpose(1, 2).contiguous()  # [panels, words, 16, unit]
    if stored != "i4":
        return panels
    nibbles = (panels.long() + 8) << (4 * torch.arange(8))
    return nibbles.sum(-1).to(torch.uint32)
