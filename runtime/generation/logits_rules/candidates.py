"""The most likely tokens of a batch, from which tokens are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The `width` most likely tokens of each row, and how likely they are in all.

    Attributes:
        logits: `f32[rows, width]`, the most likely token of a row first; -inf for a token that is cut.
        ids: `i64[rows, width]`, the tokens.
        log_total: `f32[rows, 1]`, the logarithm of the sum of `exp(logit)` over all tokens of the row that are not cut,
            also those that are not among the candidates.
        complete: `bool[rows]`, whether all other tokens of the row are cut, or there are none.
    """

    logits: Tensor
    ids: Tensor
    log_total: Tensor
    complete: Tensor

    @classmethod
    def of(cls, logits: Tensor, width: int) -> Candidates:
        """The `width` most likely tokens of logits `f32[rows, vocabulary]`, before any is cut."""
        width = min(width, logits.shape[1])
        top, ids = logits.topk(width)
        complete = top[:, -1] == -math.inf
        if width == logits.shape[1]:
            complete = torch.ones_like(complete)
        return cls(top, ids, logits.logsumexp(-1, keepdim=True), complete)

    @property
    def logprobs(self) -> Tensor:
        """The log-probabilities of the candidates among the tokens that are not cut, `f32[rows, width]`."""
        return self.logits - self.log_total

    def cut(self, keep: Tensor) -> Candidates:
        """The candidates without those that are not to be kept.

        Args:
            keep: `bool[rows, width]`. The tokens that are not among the candidates are cut from a row if its last
                candidate is.
        """
        logits = self.logits.masked_fill(~keep, -math.inf)
        complete = self.complete | ~keep[:, -1]
        total = torch.where(complete[:, None], logits.logsumexp(-1, keepdim=True), self.log_total)
        return Candidates(logits, self.ids, total, complete)

    def rows(self, chosen: Tensor) -> Candidates:
        """The candidates of some rows, given by `bool[rows]` or by their numbers."""
        return Candidates(self.logits[chosen], self.ids[chosen], self.log_total[chosen], self.complete[chosen])
