"""Rules that make tokens less likely that have come before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.generation.logits_rules.rule import History


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides the positive logits of all tokens of prompt and text by a penalty, and multiplies the negative ones."""

    penalty: float

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        seen = logits.gather(1, history.token_ids)
        return logits.scatter_(1, history.token_ids, torch.where(seen < 0, seen * self.penalty, seen / self.penalty))


@dataclass(frozen=True)
class FrequencyPenalty:
    """Subtracts a penalty from the logit of a token of the new text, as many times as it is in there."""

    penalty: float

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        new = history.token_ids[:, history.prompt_tokens :]
        counts = torch.zeros_like(logits).scatter_add_(1, new, logits.new_ones(new.shape))
        return logits.sub_(counts.mul_(self.penalty))


@dataclass(frozen=True)
class PresencePenalty:
    """Subtracts a penalty from the logits of all tokens of the new text."""

    penalty: float

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        new = history.token_ids[:, history.prompt_tokens :]
        return logits.scatter_(1, new, logits.gather(1, new) - self.penalty)
