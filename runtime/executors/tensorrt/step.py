"""What a step is given and gives, part of the batch or all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compiler.ir.step import Step
from runtime.executors.tensorrt.signature import Activation


@dataclass(frozen=True)
class StepPart:
    """The arguments of `runtime.executors.interface.StageSession.step`."""

    rows: slice
    step: Step
    received: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        """How many rows there are."""
        return self.step.batch

    @cached_property
    def counts(self) -> list[int]:
        """How many tokens each row gets."""
        return self.step.new_len.tolist()

    @property
    def longest(self) -> int:
        """The most tokens that a row gets."""
        return max(self.counts)

    def ones(self, batch: int, full: int) -> Step:
        """The step of a run over all rows of the batch, for the rows that get one token.

        Rows that are not of this part, or get no tokens, are given the past `full`, with which what they write is
        dropped: a caller need not know what their caches hold.
        """
        ones = self.step.single_tokens()
        past = torch.where(self.step.new_len > 0, ones.past_len, full)
        return ones._replace(past_len=past).within(batch, self.rows, past=full)

    def chunk(self, row: int, chosen: Chosen) -> Step:
        """The step of a run over some tokens of a row, for some logits."""
        return self.step.of(slice(row, row + 1)).tokens(chosen.start, chosen.end, chosen.wanted[None])


@dataclass(frozen=True)
class Chosen:
    """Some of a row's new tokens, and the positions among them whose logits are wanted.

    Attributes:
        start: the first of the tokens.
        end: the one after the last.
        wanted: the positions, counted from `start`, in order, each once.
        asked: which of the positions that the caller asks for are among the tokens.
        places: for each of these, where it is in `wanted`.
    """

    start: int
    end: int
    wanted: Tensor
    asked: Tensor
    places: Tensor

    @classmethod
    def of(cls, positions: Tensor, start: int, end: int) -> Chosen:
        """Those of the positions that a caller asks for, `[R]`, that are among some tokens."""
        (asked,) = ((positions >= start) & (positions < end)).nonzero(as_tuple=True)
        wanted, places = torch.unique(positions[asked] - start, return_inverse=True)
        return cls(start, end, wanted, asked, places)

    def give(self, item: Activation, row: Tensor, run: Tensor) -> None:
        """Copy what a row was sent into the memory of a run over the tokens."""
        if item.by_position:
            run[self.places] = row[self.asked]
        else:
            run[: self.end - self.start] = row[self.start : self.end]

    def take(self, item: Activation, run: Tensor, row: Tensor) -> None:
        """Copy what such a run made into the results of a row."""
        if item.by_position:
            row[self.asked] = run[self.places]
        else:
            row[self.start : self.end] = run[: self.end - self.start]


@dataclass(frozen=True)
class StepResults:
    """What a step gives of some rows, by name: activations `[rows, S, ...]` or `[rows, R, ...]`.

    Attributes:
        items: what there is.
        tensors: the tensors.
    """

    items: Sequence[Activation]
    tensors: Mapping[str, Tensor]

    def take(self, ones: StepResults) -> None:
        """Take over what has one position per row: that of the first token, or for all wanted positions."""
        for item in self.items:
            place = self.tensors[item.name]
            (place if item.by_position else place[:, :1]).copy_(ones.tensors[item.name])

    def shown(self, positions: int) -> Mapping[str, Tensor]:
        """The tensors of a step of one token a row, for so many wanted positions."""
        return {
            item.name: tensor.expand(-1, positions, *tensor.shape[2:]) if item.by_position else tensor
            for item in self.items
            for tensor in (self.tensors[item.name],)
        }
