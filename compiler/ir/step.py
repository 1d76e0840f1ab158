"""A step of a model: the names, dims and element types of its arguments, and the arguments as tensors.

A step adds some tokens to each row of a batch. This module alone spells the names of its inputs and of the symbolic
dims of a step graph, `compiler.ir.packed_step` the names of the inputs of a packed step; `compiler.ir.step_interface`
says what a graph takes and gives, `compiler.ir.cache_layout` and `compiler.ir.paged_layout` how caches lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Ints = npt.NDArray[np.int32]


class StepDim:
    """The names of the symbolic dims of a step graph."""

    BATCH: Final = "B"
    """The rows of the batch."""
    LENGTH: Final = "S"
    """The new tokens of a row, padding included."""
    CAPACITY: Final = "C"
    """The tokens that a row of the caches holds."""
    WANTED: Final = "R"
    """The positions whose logits are wanted: of each row, or of all packed tokens."""
    TOKENS: Final = "T"
    """The tokens of a packed step."""
    BLOCKS: Final = "N"
    """The blocks of a pool."""
    TABLE: Final = "M"
    """The blocks that a row of the block tables can name."""


B, S, C, R = map(symbol, (StepDim.BATCH, StepDim.LENGTH, StepDim.CAPACITY, StepDim.WANTED))
T, N, M = map(symbol, (StepDim.TOKENS, StepDim.BLOCKS, StepDim.TABLE))

LOGITS = "logits"
"""The output that every step graph has, `[B, R, vocabulary]`; of a packed step `[R, vocabulary]`."""


class Step(NamedTuple):
    """The arguments of a step. The tensors are int32, on the CPU, and in the order in which ranks send them.

    Attributes:
        token_ids: `[B, S]`; row b holds `new_len[b]` tokens, then padding of any valid id.
        past_len: `[B]`, the tokens of each row that are in the caches already.
        new_len: `[B]`, the tokens of each row that the step adds; 0 leaves the row's caches alone.
        logit_pos: `[B, R]`, the positions within S whose logits are wanted.
    """

    token_ids: Tensor
    past_len: Tensor
    new_len: Tensor
    logit_pos: Tensor

    @classmethod
    def prefill(cls, token_ids: Tensor, new_len: Tensor | None = None, logit_pos: Tensor | None = None) -> Step:
        """The first step of rows: there is nothing in the caches yet.

        Args:
            token_ids: `i32[B, S]`.
            new_len: `i32[B]`; if None, no row has padding.
            logit_pos: `i32[B, R]`; if None, the position of each row's last token.
        """
        rows, length = token_ids.shape
        if new_len is None:
            new_len = token_ids.new_full((rows,), length)
        if logit_pos is None:
            logit_pos = last_positions(new_len)
        return cls(token_ids, token_ids.new_zeros(rows), new_len, logit_pos)

    @classmethod
    def of_prompts(cls, prompts: Sequence[Sequence[int]], *, batch: int | None = None) -> Step:
        """The first step of a batch whose rows get these token ids, with the logits of each row's last token.

        Args:
            prompts: the token ids of the first rows.
            batch: how many rows there are; those without a prompt get no tokens. If None, as many as prompts.
        """
        import torch

        count = len(prompts) if batch is None else batch
        token_ids = torch.zeros(count, max(map(len, prompts)), dtype=torch.int32)
        new_len = torch.zeros(count, dtype=torch.int32)
        for row, prompt in enumerate(prompts):
            token_ids[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.int32)
            new_len[row] = len(prompt)
        return cls.prefill(token_ids, new_len)

    def wanting(self, logit_pos: Tensor) -> Step:
        """The same step with the logits of other positions, `i32[B, R]`."""
        return self._replace(logit_pos=logit_pos)

    @property
    def batch(self) -> int:
        """The number of rows."""
        return self.token_ids.shape[0]

    @property
    def length(self) -> int:
        """The tokens of a row, padding included."""
        return self.token_ids.shape[1]

    @property
    def wanted(self) -> int:
        """The positions of a row whose logits are wanted."""
        return self.logit_pos.shape[1]

    def of(self, rows: slice) -> Step:
        """The step of some of the rows."""
        return Step(*(tensor[rows] for tensor in self))

    def tokens(self, start: int, stop: int, logit_pos: Tensor) -> Step:
        """The step over some of the positions of every row, after all steps over the positions before.

        Args:
            start: the first position.
            stop: the position after the last.
            logit_pos: `i32[B, R]`, the positions whose logits are wanted, counted from `start`.
        """
        return Step(
            self.token_ids[:, start:stop].contiguous(),
            self.past_len + self.new_len.clamp(max=start),
            (self.new_len - start).clamp(0, stop - start),
            logit_pos,
        )

    def single_tokens(self) -> Step:
        """The step of the rows that get one token, with its logits; the others get none, and have the token 0."""
        one = (self.new_len == 1).to(self.new_len.dtype)[:, None]
        first = self.token_ids[:, :1]
        return Step(first * one, self.past_len, one[:, 0], first.new_zeros(first.shape))

    def within(self, batch: int, rows: slice, *, past: int) -> Step:
        """The step of a batch in which this is the step of some rows.

        Args:
            batch: how many rows the batch has.
            rows: the rows whose step this is.
            past: how many tokens the other rows have in the caches; they get none.
        """
        if self.batch == batch:
            return self
        whole = Step(*(tensor.new_zeros(batch, *tensor.shape[1:]) for tensor in self))
        whole.past_len.fill_(past)
        for place, tensor in zip(whole, self, strict=True):
            place[rows] = tensor
        return whole

    def packed(self) -> list[Sequence[int] | Ints]:
        """The step as 32-bit integers, in parts to be sent one after the other: its sizes, then its tensors."""
        return [(self.batch, self.length, self.wanted), *(tensor.reshape(-1).numpy() for tensor in self)]

    @classmethod
    def unpacked(cls, numbers: Ints) -> Step:
        """Inverse of `packed`, given its parts joined. The tensors are copies."""
        import torch

        batch, length, wanted = map(int, numbers[:3])
        shapes = [(batch, length), (batch,), (batch,), (batch, wanted)]
        parts = torch.from_numpy(numbers[3:].copy()).split([batch * length, batch, batch, batch * wanted])
        return cls(*(part.view(shape) for part, shape in zip(parts, shapes, strict=True)))


TOKEN_IDS, PAST_LEN, NEW_LEN, LOGIT_POS = Step._fields

STEP_INPUTS: Mapping[str, TensorType] = {
    TOKEN_IDS: TensorType(DType.i32, (B, S)),
    PAST_LEN: TensorType(DType.i32, (B,)),
    NEW_LEN: TensorType(DType.i32, (B,)),
    LOGIT_POS: TensorType(DType.i32, (B, R)),
}
"""The inputs of a step graph that are no caches, in the order of `Step`. A graph may do without any but the tokens."""


def dim_sizes(
    *,
    batch: int | None = None,
    length: int | None = None,
    wanted: int | None = None,
    capacity: int | None = None,
    tokens: int | None = None,
    blocks: int | None = None,
) -> dict[str, int]:
    """Sizes of a step's dims by their names, as `TensorType.sizes` takes them; what is None is left out."""
    sizes = {
        StepDim.BATCH: batch,
        StepDim.LENGTH: length,
        StepDim.WANTED: wanted,
        StepDim.CAPACITY: capacity,
        StepDim.TOKENS: tokens,
        StepDim.BLOCKS: blocks,
    }
    return {name: size for name, size in sizes.items() if size is not None}


def all_positions(rows: int, length: int) -> Tensor:
    """The first `length` positions of each row, `i32[rows, length]`: to want the logits of all of them."""
    import torch

    return torch.arange(length, dtype=torch.int32).expand(rows, length)


def last_positions(new_len: Tensor) -> Tensor:
    """The position of the last of `new_len` tokens of each row, `i32[B, 1]`; 0 for a row without tokens."""
    return (new_len - 1).clamp_min(0).unsqueeze(1)
