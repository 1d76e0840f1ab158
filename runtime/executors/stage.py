"""The interface of a rank's part of a model: a stage, or all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from runtime.executors.chunks import in_chunks
from runtime.executors.interface import Executor
from runtime.executors.step import Step


class StageSession(Protocol):
    """One stage's part of a batch of sequences in progress.

    Attributes:
        chunk: how many tokens of a row a step may have at most. Longer steps are cut by whoever drives the stage, and
            all stages of a pipeline alike.
    """

    chunk: int

    def buffers(self, rows: int, length: int, positions: int = 1) -> Mapping[str, Tensor]:
        """Where to put what the stage receives: contiguous, on its device.

        Args:
            rows: how many rows.
            length: how many tokens a row has.
            positions: how many logits a row wants.

        Returns:
            The tensors as `recv.S.NAME`, S the stage that sends; in the order in which that stage sends them.
        """
        ...

    def step(self, rows: slice, step: Step, received: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Run the stage over the next tokens of some rows, and update their caches.

        Args:
            rows: which rows of the batch.
            step: what is to be done with them; the tensors hold these rows only.
            received: what `buffers` gave, filled.

        Returns:
            What goes to other stages, as `send.S.NAME` in the order of sending; and of the last stage `logits`, as
            `[rows, R, vocabulary]`. The memory may be used again by the next step.
        """
        ...


class StageExecutor(Protocol):
    """A loaded stage."""

    name: str
    """How messages call the executor: `torch`."""

    def open_stage(self, batch: int, capacity: int) -> StageSession:
        """See `runtime.executors.interface.Executor.open`."""
        ...


class RankExecutor(Executor, StageExecutor, Protocol):
    """A loaded rank: a whole model, or a stage."""


S = TypeVar("S", bound=StageSession)


class WholeSession(Generic[S]):
    """Sequences in progress on a stage that is a whole model. See `runtime.executors.interface.Session`.

    Steps that are too long for the stage run in chunks.

    Attributes:
        stage: what runs them.
    """

    def __init__(self, stage: S, batch: int, capacity: int) -> None:
        self.stage, self.batch, self.capacity = stage, batch, capacity

    def step(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor) -> Tensor:
        """See `runtime.executors.interface.Session.step`; raises as the stage's does."""
        step = Step(token_ids, past_len, new_len, logit_pos)
        return in_chunks(step, self.stage.chunk, lambda part: self.stage.step(slice(0, self.batch), part, {})["logits"])
