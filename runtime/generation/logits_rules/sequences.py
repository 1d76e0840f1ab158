"""Rules about sequences of tokens: biases, bad words, and n-grams that must not come twice."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.generation.logits_rules.rule import History


class SequenceBias:
    """Adds a bias to the logit of a sequence's last token in rows that end with its other tokens.

    Args:
        biases: pairs of a sequence of token ids, which is not empty, and its bias. A sequence of one token is biased
            everywhere.
    """

    def __init__(self, biases: Iterable[tuple[Sequence[int], float]]) -> None:
        by_length: dict[int, list[tuple[Sequence[int], float]]] = {}
        for sequence, bias in biases:
            by_length.setdefault(len(sequence) - 1, []).append((sequence, bias))
        self._groups = [
            (
                torch.tensor([sequence[:-1] for sequence, _ in group], dtype=torch.int64),
                torch.tensor([sequence[-1] for sequence, _ in group]),
                torch.tensor([bias for _, bias in group], dtype=torch.float32),
            )
            for _, group in sorted(by_length.items())
        ]

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        total = torch.zeros_like(logits)
        for prefixes, last, biases in self._groups:
            prefixes, last, biases = (part.to(logits.device) for part in (prefixes, last, biases))
            length = prefixes.shape[1]
            if length > history.length:
                continue
            ends = history.token_ids[:, history.length - length :]
            matches = (ends[:, None] == prefixes).all(-1)
            total.index_add_(1, last, torch.where(matches, biases, 0.0))
        return logits.add_(total)


class BadWords(SequenceBias):
    """Forbids sequences of tokens: their last token gets no probability where the others have come.

    Args:
        sequences: the sequences, none of them empty.
        end_ids: the model's end tokens, which stay possible even where one is listed by itself.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], end_ids: Collection[int] = ()) -> None:
        forbidden = dict.fromkeys(map(tuple, sequences))
        super().__init__((one, -math.inf) for one in forbidden if len(one) > 1 or one[0] not in end_ids)


@dataclass(frozen=True)
class NoRepeatNGram:
    """Forbids a token that would complete a sequence of `size` tokens that prompt and text hold already."""

    size: int

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`."""
        if history.length < self.size:
            return logits
        grams = history.token_ids.unfold(1, self.size, 1)
        prefix = history.token_ids[:, history.length + 1 - self.size :]
        repeated = (grams[..., :-1] == prefix[:, None]).all(-1)
        rows, places = repeated.nonzero(as_tuple=True)
        logits[rows, grams[rows, places, -1]] = -math.inf
        return logits
