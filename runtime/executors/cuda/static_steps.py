"""Steps of fixed sizes, in memory that captured graphs read.

A step is padded to the size of its memory. What it brings (tokens, positions, tables) is copied to the device as one
piece. Padding is tokens that compute and write nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep, Spans
from runtime.executors.cuda.kernels.addresses import NO_TOKEN, PADDING, TILE, Addresses, items_of

_SMALL = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_APART = 64
"""Beyond the small ones, there are graphs for multiples of so many sequences."""
_LEAST_BLOCKS = 4
_SPLIT = 32
"""From more sequences on, attention fills a GPU without splitting them, so that tables may be as wide as they can."""
_WIDE_BLOCKS = 64
_WIDE_TABLES = 1 << 18
"""Tables of so many blocks in all cost a step with prompts nothing, so that they are as wide as they can be."""
_LEAST_PROMPT = 32
_ALIGNED = 4
"""Of so many numbers the beginnings of tensors are multiples: kernels are compiled for pointers to 16 bytes."""


class GraphSize(NamedTuple):
    """What steps a graph is for.

    Attributes:
        tokens: how many tokens, with padding.
        sequences: how many sequences, and logits.
        blocks: how many blocks a table has.
        decodes: whether every sequence gets one token.
    """

    tokens: int
    sequences: int
    blocks: int
    decodes: bool

    @property
    def items(self) -> int:
        """How many work items of attention such a step has at most."""
        return self.tokens // TILE + min(self.sequences, self.tokens // 2)


def graph_tokens(tokens: int) -> int:
    """For how many sequences of a token each the smallest graph is that holds so many."""
    return next((size for size in _SMALL if size >= tokens), -(-tokens // _APART) * _APART)


def prompt_tokens(tokens: int) -> int:
    """For how many tokens the smallest graph of steps with prompts is that holds so many: at most a quarter more."""
    below = 1 << max(0, (tokens - 1).bit_length() - 1)
    unit = max(_LEAST_PROMPT, below // (4 if below < 1024 else 8))
    return -(-tokens // unit) * unit


def graph_blocks(blocks: int, most: int, least: int = _LEAST_BLOCKS) -> int:
    """For how many blocks of a sequence the smallest graph is that holds so many; `most` is the widest table."""
    size = least
    while size < blocks:
        size *= 2
    return max(blocks, min(size, most))


def size_of_decodes(sequences: int, blocks: int, most_blocks: int) -> GraphSize:
    """The smallest graph for sequences that get a token each, with tables of so many blocks."""
    tokens = graph_tokens(sequences)
    least = _LEAST_BLOCKS if tokens <= _SPLIT else _WIDE_BLOCKS
    return GraphSize(tokens, tokens, graph_blocks(blocks, most_blocks, least), decodes=True)


def size_with_prompts(tokens: int, blocks: int, most_blocks: int, most_sequences: int) -> GraphSize:
    """The smallest graph for a step with prompts."""
    size = prompt_tokens(tokens)
    sequences = min(size, graph_tokens(most_sequences))
    least = max(_WIDE_BLOCKS, _WIDE_TABLES // sequences)
    return GraphSize(size, sequences, graph_blocks(blocks, most_blocks, least), decodes=False)


class StaticTensors:
    """Integers of fixed shapes that are copied to a device as one piece.

    Attributes:
        host: arrays on the host, to be written to between `begin` and `send`.
        device: the tensors of these shapes on the device.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], device: torch.device) -> None:
        pinned = device.type == "cuda"
        apart = [-(-math.prod(shape) // _ALIGNED) * _ALIGNED for shape in shapes]
        self._from = torch.zeros(sum(apart), dtype=torch.int32, pin_memory=pinned)
        self._to = torch.zeros_like(self._from, device=device)
        self.host: list[npt.NDArray[np.int32]] = [each.numpy() for each in _views(self._from, shapes, apart)]
        self.device = _views(self._to, shapes, apart)
        self._sent = torch.cuda.Event() if pinned else None

    def begin(self) -> None:
        """Wait until the host's side may be written to: the copy of the step before may still read it."""
        if self._sent is not None:
            self._sent.synchronize()

    def send(self) -> None:
        """Copy what the host's side holds to the device."""
        self._to.copy_(self._from, non_blocking=True)
        if self._sent is not None:
            self._sent.record()


def _views(memory: Tensor, shapes: Sequence[tuple[int, ...]], apart: Sequence[int]) -> list[Tensor]:
    pieces = memory.split([*apart])
    return [piece[: math.prod(shape)].view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


class StaticStep:
    """The memory that steps of a size are read from.

    Attributes:
        size: the size.
        step: the tensors of the step, on the device.
    """

    def __init__(self, size: GraphSize, device: torch.device) -> None:
        self.size = size
        tokens, sequences, blocks, decodes = size
        shapes: list[tuple[int, ...]] = [(tokens,)] * 3 + [(sequences,), (sequences, blocks)]
        shapes += [] if decodes else [(size.items, 4), (sequences,)]
        self._tensors = StaticTensors(shapes, device)
        ids, positions, rows, wanted, tables, *others = self._tensors.device
        self.step = PackedStep(ids, positions, rows, tables, wanted)
        self._queries: Tensor | None = None
        self._singles: Tensor | None = None
        if others:
            self._queries, self._singles = others

    def fill(self, step: PackedStep) -> None:
        """Take up a step, which `holds` must be true of."""
        tensors = self._tensors
        tensors.begin()
        ids, positions, rows, wanted, tables, *others = tensors.host
        count = step.tokens
        ids[:count], positions[:count] = step.token_ids.numpy(), step.token_positions.numpy()
        ids[count:] = positions[count:] = 0
        rows[count:] = PADDING
        wanted[: step.wanted], wanted[step.wanted :] = step.logit_pos.numpy(), 0
        given = step.block_tables.numpy()
        width = min(self.size.blocks, given.shape[1])
        if self.size.decodes:
            rows[:count] = np.arange(count, dtype=np.int32)
            tables[:count, :width] = given[step.token_rows.numpy(), :width]
        else:
            spans = step.span_arrays()
            places = np.arange(len(spans.rows), dtype=np.int32)
            rows[:count] = places.repeat(spans.counts)
            tables[: len(places), :width] = given[spans.rows, :width]
            self._fill_attention(spans._replace(rows=places), *others)
        tensors.send()

    def holds(self, step: PackedStep) -> bool:
        """Whether a step fits."""
        tokens, sequences, _, decodes = self.size
        if step.tokens > tokens or step.wanted > sequences:
            return False
        rows = step.token_rows.numpy()
        count = step.tokens if decodes else 1 + int(np.count_nonzero(rows[1:] != rows[:-1]))
        return count <= sequences

    def clear(self) -> None:
        """Take up a step of padding alone."""
        tensors = self._tensors
        tensors.begin()
        for field in tensors.host:
            field.fill(0)
        _, _, rows, _, _, *others = tensors.host
        rows.fill(PADDING)
        if others:
            others[1].fill(NO_TOKEN)
        tensors.send()

    @staticmethod
    def _fill_attention(spans: Spans, queries: npt.NDArray[np.int32], singles: npt.NDArray[np.int32]) -> None:
        items = items_of(spans.of(spans.counts > 1))
        queries[: len(items)], queries[len(items) :] = items, 0
        alone = spans.starts[spans.counts == 1]
        singles[: len(alone)], singles[len(alone) :] = alone, NO_TOKEN

    def addresses(self, block: int) -> Addresses:
        """Where the tokens are."""
        size, (_, positions, rows, tables, _) = self.size, self.step
        longest = size.blocks * block
        return Addresses(positions, rows, tables, block, longest, size.decodes, self._queries, self._singles)
