"""Steps of sessions over sequences that have places in their caches.

There are two kinds: over the rows of linear sessions (`row_steps`), and over the blocks of paged ones (`block_steps`).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from runtime.executors.paged import Chosen
from runtime.generation.cache import Copies, SequenceCache
from runtime.generation.sequence import Sequence

Ints = npt.NDArray[np.int32]
Chunk = tuple[Sequence, int]
"""A sequence, and how many of its next tokens are to be computed."""


@dataclass
class Begun:
    """A step that may still be running, and the sequences all of whose known tokens are in the caches after it.

    What the arrays hold of a sequence, `i32`, is in the order of the sequences, which is that of their slots.

    Attributes:
        sequences: the sequences, in the order of the step's logits.
        chosen: their most likely next tokens.
        tokens: how many tokens the step computes.
        slots: the rows of the cache's tables that are theirs.
        lengths: how many tokens each has in the caches after the step.
        ends: how many it has there when its next token is the last that it may get.
        rooms: for how many tokens it has room.
        kept: for each sequence of the step before whether it goes on in this one, with the token chosen there.
        prompts: whether other sequences have tokens that are in no cache.
    """

    sequences: list[Sequence]
    chosen: Chosen
    tokens: int
    slots: Ints
    lengths: Ints
    ends: Ints
    rooms: Ints
    kept: list[bool] = field(default_factory=list)
    prompts: bool = False


class SessionSteps(Protocol):
    """A session, and the cache that books who has which part of it."""

    step_tokens: int
    """How many tokens a step should take at most."""

    @property
    def cache(self) -> SequenceCache:
        """What books the session's caches."""
        ...

    def split(self, chunks: ListOf[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
        """Those of some chunks that are best computed in one step now, and the others."""
        ...

    def run(self, chunks: ListOf[Chunk]) -> tuple[list[Sequence], Tensor]:
        """Compute the next tokens of some sequences in one step.

        Returns:
            The sequences all of whose tokens have been computed, and the logits after them, `[sequences, vocabulary]`.
        """
        ...

    def run_every(self, chunk: Chunk) -> Tensor:
        """Compute the next tokens of one sequence; returns the logits after each of them, `[tokens, vocabulary]`."""
        ...

    def copy(self, copies: Copies) -> None:
        """Make copies within the caches, all at once."""
        ...

    def warm_up(self, sequences: int, longest: int, done: Callable[[int, int], None]) -> None:
        """See `runtime.executors.paged.WarmsUp.warm_up`; nothing, if the session's first steps take no longer."""
        ...

    def begin(self, chunks: ListOf[Chunk]) -> Begun | None:
        """Begin to compute the next tokens of some sequences, in any order.

        Returns:
            The step; None, and nothing has begun, if the session has to wait for each step, or no sequence would have
            all of its tokens in the caches.
        """
        ...

    def go_on(self, after: Begun, going: npt.NDArray[np.bool_], chunks: ListOf[Chunk] = ()) -> Begun:
        """Begin the step after one whose tokens are not known yet.

        Whoever learns these says so to the cache (`filled_each`).

        Args:
            after: the step before.
            going: which of its sequences go on with the token that it chooses; there must be room for it.
            chunks: more sequences, whose tokens are known; with the others they are one or more.
        """
        ...
