"""Sequences in progress on a TensorRT engine of one stage."""

from __future__ import annotations

from torch import Tensor

from runtime.tensorrt_executor.signature import LOGITS
from runtime.tensorrt_executor.stage import TensorRTStage


class TensorRTSession:
    """Sequences in progress; see `runtime.executor.Session`.

    Attributes:
        stage: what runs them.
    """

    def __init__(self, stage: TensorRTStage) -> None:
        """Run sequences on a stage that is all there is."""
        self.batch, self.capacity, self.stage = stage.batch, stage.capacity, stage
        self._rows = slice(0, stage.batch)

    def step(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor) -> Tensor:
        """See `runtime.executor.Session.step`, and `TensorRTStage.step` for the errors."""
        return self.stage.step(self._rows, token_ids, past_len, new_len, logit_pos, {})[LOGITS]
