"""The interface that every executor has, whatever runs the model beneath it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


class Session(Protocol):
    """A batch of sequences in progress, with their caches. Row b of the batch is a slot that can be reused."""

    batch: int
    capacity: int

    def step(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor) -> Tensor:
        """Run the model over the next tokens of every row and update the caches in place.

        Args:
            token_ids: `i32[B, S]`; row b holds `new_len[b]` tokens, then padding of any valid id.
            past_len: `i32[B]`, the tokens of each row that are in the caches already.
            new_len: `i32[B]`, the tokens of each row that this call adds; 0 leaves the row's caches alone.
            logit_pos: `i32[B, R]`, the positions within S whose logits are wanted.

        Returns:
            The logits `[B, R, vocabulary]`, floating-point, on the CPU or the executor's device. The memory may be
            used again by the next step.
        """
        ...


class Executor(Protocol):
    """A loaded model."""

    name: str
    """How messages call the executor: `torch`."""

    def open(self, batch: int, capacity: int) -> Session:
        """Allocate caches for `batch` sequences of at most `capacity` tokens each.

        Raises:
            RequestError: if the engine was not built for so many, or the memory does not suffice.
        """
        ...


@dataclass(frozen=True)
class PlanSize:
    """What steps a TensorRT plan is for.

    Attributes:
        name: the plan's name.
        rows: the most rows that it runs one token of; 0 for a plan that does not.
        width: the most tokens of a row that it runs.
        capacity: how many tokens the caches of a row hold.
    """

    name: str
    rows: int
    width: int
    capacity: int


@runtime_checkable
class PlannedExecutor(Protocol):
    """An executor that runs plans, if there are some; each can be tried by itself."""

    @property
    def plan_sizes(self) -> Sequence[PlanSize]:
        """The plans; none if it runs something else."""
        ...

    def limited_to(self, names: Collection[str]) -> Executor:
        """An executor that has only the plans of these names, and shares all else with this one."""
        ...
