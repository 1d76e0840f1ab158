"""Steps whose attention is timed, over several layers' pools."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compiler.ir.packed_step import Span
from runtime.executors.cuda.kernels import attention, tiles
from runtime.executors.cuda.kernels.addresses import Addresses, work_items
from runtime.executors.cuda.kernels.attention import AttentionForm, CacheScales, Rotary, Workspace, attend
from runtime.executors.cuda.kernels.tiles import DecodeTiles

BLOCK = 64
FORMS = {"16x256": (16, 16, 256), "32x128": (32, 32, 128), "32x80": (32, 32, 80), "32/1x128": (32, 1, 128)}
POOLS = {"f16": torch.float16, "i8": torch.int8, "fp8": torch.float8_e4m3fn}
FLAT_BYTES = 10 * 2**30
"""Of the memory in which all pools lie: such that they do not fit into the cache of a GPU."""


class Memory:
    """One large piece of memory with random values for each element type, which all cases share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._flat: dict[torch.dtype, Tensor] = {}

    def pools(self, dtype: torch.dtype, count: int, shape: Sequence[int]) -> list[Tensor]:
        """So many pools, one after the other."""
        if dtype not in self._flat:
            self._flat.clear()
            torch.cuda.empty_cache()
            self._flat[dtype] = self._random(dtype)
        flat, each = self._flat[dtype], torch.Size(shape).numel()
        count = max(1, min(count, flat.numel() // each))
        return [flat[at * each : (at + 1) * each].view(*shape) for at in range(count)]

    def _random(self, dtype: torch.dtype) -> Tensor:
        if dtype is torch.float16:
            return torch.empty(self.size // 2, dtype=dtype, device="cuda").normal_()
        if dtype is torch.int8:
            return torch.empty(self.size, dtype=dtype, device="cuda").random_(-127, 128)
        bits = torch.empty(self.size, dtype=torch.uint8, device="cuda").random_(0, 256)
        return bits.bitwise_and_(0xB7).view(dtype)  # without the largest exponents, and so without NaN


@dataclass(frozen=True)
class Case:
    """One step: `batch` sequences that each get `new` tokens after `past`, beside `beside` that decode at 256 tokens.

    `tiles`, `least` and `waves` replace the defaults of the kernels. The tiles of single tokens are how many rows a
    thread has, the warps and the stages; with shared keys, how many positions are read at a time, the warps and the
    stages. Those of chunks are queries, positions, warps and stages.
    """

    form: str
    pool: str
    batch: int
    past: int
    new: int = 1
    tiles: tuple[int | None, ...] | None = None
    least: int | None = None
    waves: int | None = None
    beside: int = 0

    @property
    def spans(self) -> list[Span]:
        """The sequences, those that decode first."""
        counts = [(255, 1)] * self.beside + [(self.past, self.new)] * self.batch
        stops = itertools.accumulate(new for _, new in counts)
        return [
            Span(row, stop - new, stop, past) for row, ((past, new), stop) in enumerate(zip(counts, stops, strict=True))
        ]

    @property
    def length(self) -> int:
        return self.past + self.new

    @property
    def bytes(self) -> int:
        heads, kv_heads, width = FORMS[self.form]
        cache = sum(span.length for span in self.spans) * kv_heads * width * 2 * POOLS[self.pool].itemsize
        return cache + sum(span.new for span in self.spans) * (heads + kv_heads) * width * 2 * 2

    @property
    def operations(self) -> float:
        heads, _, width = FORMS[self.form]
        return 4.0 * heads * width * sum(sum(range(span.past + 1, span.length + 1)) for span in self.spans)

    def set_up(self) -> None:
        """Use the case's tiles."""
        tiles._LEAST_SHARE = self.least or DEFAULTS["least"]
        tiles._WAVES = self.waves or DEFAULTS["waves"]
        attention.decode_tiles = DEFAULTS["decode"]
        attention.prefill_tiles = DEFAULTS["prefill"]
        tiles._UNROLL, tiles._WARPS, tiles._STAGES = DEFAULTS["own"]
        heads, kv_heads, _ = FORMS[self.form]
        if self.tiles and self.new > 1:
            attention.prefill_tiles = lambda *_: self.tiles
        elif self.tiles and heads == kv_heads:
            tiles._UNROLL, tiles._WARPS, tiles._STAGES = self.tiles
        elif self.tiles:
            positions, warps, stages = self.tiles
            attention.decode_tiles = lambda *_: DecodeTiles(1, max(16, heads // kv_heads), positions, 1, warps, stages)

    def step(self, memory: Memory, layers: int, *, alone: bool = False) -> Step:
        """The tensors of the step over so many layers; with `alone`, pools of one block, which suffice to compile."""
        heads, kv_heads, width = FORMS[self.form]
        spans = self.spans
        per = -(-max(span.length for span in spans) // BLOCK)
        count = 1 if alone else len(spans) * per
        order = torch.zeros(len(spans) * per, dtype=torch.int64) if alone else torch.randperm(count)
        tables = order.int().view(len(spans), per).cuda()
        tokens = spans[-1].stop
        positions = torch.cat([torch.arange(span.past, span.length) for span in spans]).int().cuda()
        rows = torch.cat([torch.full((span.new,), span.row) for span in spans]).int().cuda()
        decodes = self.new == 1
        queries = None if decodes else work_items(span for span in spans if span.new > 1).cuda()
        singles = torch.arange(self.beside, dtype=torch.int32).cuda() if self.beside and not decodes else None
        longest = max(span.length for span in spans)
        addresses = Addresses(positions, rows, tables, BLOCK, longest, decodes, queries, singles)
        fused = torch.randn(tokens, (heads + 2 * kv_heads) * width + 4096, device="cuda", dtype=torch.float16)
        angles = torch.rand(tokens, 32, device="cuda") * 6
        pools = memory.pools(POOLS[self.pool], 2 * layers, (count, BLOCK, kv_heads, width))
        scale = torch.full((kv_heads,), 0.02, device="cuda")
        return Step(
            self,
            fused,
            addresses,
            AttentionForm(heads, kv_heads, width, width**-0.5),
            Rotary(angles.cos(), angles.sin(), True),
            CacheScales(scale, scale) if self.pool != "f16" else None,
            list(zip(pools[::2], pools[1::2], strict=False)) or [(pools[0], pools[0])],
        )


@dataclass
class Step:
    """The tensors of a case."""

    case: Case
    fused: Tensor
    addresses: Addresses
    form: AttentionForm
    rotary: Rotary
    scales: CacheScales | None
    pools: list[tuple[Tensor, ...]]

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        heads, kv_heads, width = FORMS[self.case.form]
        q, k, v, _ = self.fused.split([heads * width, kv_heads * width, kv_heads * width, 4096], -1)
        return q, k, v

    def run(self, layer: int, workspace: Workspace) -> Tensor:
        k_pool, v_pool = self.pools[layer]
        return attend(
            *self.parts(), k_pool, v_pool, self.addresses, self.form, self.rotary, None, self.scales,
            workspace=workspace,
        )  # fmt: skip

    def exact(self) -> Tensor:
        """The context in float64, over the pools as the kernels have written them."""
        heads, kv_heads, width = FORMS[self.case.form]
        factor = 1.0 if self.scales is None else 0.02
        length, new, batch = self.case.length, self.case.new, self.case.batch
        keys, values = (
            pool[self.addresses.tables.long()].view(batch, -1, kv_heads, width)[:, :length].double() * factor
            for pool in self.pools[0]
        )
        q = self.parts()[0].view(-1, heads, width).double()
        turning, rest = q[..., :64].unflatten(-1, (-1, 2)), q[..., 64:]
        cos, sin = (each[:, None].double() for each in self.rotary[:2])
        a, b = turning.unbind(-1)
        q = torch.cat([torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2), rest], -1)
        q = q.view(batch, new, heads, width)
        keys, values = (x.repeat_interleave(heads // kv_heads, 2) for x in (keys, values))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) * width**-0.5
        seen = torch.arange(length, device="cuda") <= torch.arange(length - new, length, device="cuda")[:, None]
        probabilities = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return torch.einsum("bhqk,bkhd->bqhd", probabilities, values).reshape(batch * new, heads * width)


DEFAULTS: dict[str, Any] = {
    "least": tiles._LEAST_SHARE,
    "waves": tiles._WAVES,
    "own": (tiles._UNROLL, tiles._WARPS, tiles._STAGES),
    "decode": attention.decode_tiles,
    "prefill": attention.prefill_tiles,
}
