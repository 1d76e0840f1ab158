"""A step's arguments, as they are passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Step(NamedTuple):
    """The arguments of `runtime.executors.interface.Session.step`, in order."""

    token_ids: Tensor
    past_len: Tensor
    new_len: Tensor
    logit_pos: Tensor

    def of(self, rows: slice) -> Step:
        """The step of some of the rows."""
        return Step(*(tensor[rows] for tensor in self))
