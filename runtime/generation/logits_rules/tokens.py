"""Rules that forbid or force tokens, by how many tokens a request has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from runtime.generation.logits_rules.rule import History


@dataclass(frozen=True)
class MinNewTokens:
    """Forbids the tokens that end a text until there are so many new ones."""

    new_tokens: int
    end_ids: Sequence[int]

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        return _forbid(logits, self.end_ids) if history.new_tokens < self.new_tokens else logits


@dataclass(frozen=True)
class SuppressTokens:
    """Forbids tokens."""

    token_ids: Sequence[int]

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        return _forbid(logits, self.token_ids)


@dataclass(frozen=True)
class SuppressTokensAtBegin:
    """Forbids tokens as the first new one; as the second, where the first is forced (`begin` is 1 then)."""

    token_ids: Sequence[int]
    begin: int = 0

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        return _forbid(logits, self.token_ids) if history.new_tokens == self.begin else logits


@dataclass(frozen=True)
class ForcedBOS:
    """Makes a token the only possible one where a row has one token so far."""

    token_id: int

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        return _force(logits, [self.token_id]) if history.length == 1 else logits


@dataclass(frozen=True)
class ForcedEOS:
    """Makes some tokens, equally likely, the only possible ones for the last new token that may come."""

    max_new_tokens: int
    token_ids: Sequence[int]

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        return _force(logits, self.token_ids) if history.new_tokens == self.max_new_tokens - 1 else logits


@dataclass(frozen=True)
class ExponentialDecayLengthPenalty:
    """Raises the logits of end tokens by `|logit| · (factor^k - 1)`, k tokens after the first `start` new ones."""

    start: int
    factor: float
    end_ids: Sequence[int]

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        over = history.new_tokens - self.start
        if over > 0:
            ends = logits[:, list(self.end_ids)]
            penalty = (ends.abs() * (self._growth(over) - 1)).masked_fill(~ends.isfinite(), 0.0)
            logits[:, list(self.end_ids)] = ends + penalty
        return logits

    def _growth(self, over: int) -> float:
        try:
            return self.factor**over
        except OverflowError:
            return math.inf


def _forbid(logits: Tensor, token_ids: Sequence[int]) -> Tensor:
    logits[:, list(token_ids)] = -math.inf
    return logits


def _force(logits: Tensor, token_ids: Sequence[int]) -> Tensor:
    logits.fill_(-math.inf)[:, list(token_ids)] = 0.0
    return logits
