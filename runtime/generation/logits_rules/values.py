"""Rules about the values of logits as such."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.generation.logits_rules.rule import History


class RemoveInvalidValues:
    """Makes NaN 0, and infinities the largest and smallest finite values."""

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        return torch.nan_to_num_(logits)


class Normalization:
    """Makes logits log-probabilities."""

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        return logits.log_softmax(-1)
