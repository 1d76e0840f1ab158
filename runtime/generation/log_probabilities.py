"""Log-probabilities of tokens: of those that were chosen, of the most likely ones, and of a prompt's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class TokenLogprobs:
    """How likely a token was, and which tokens were the most likely.

    They are of the model's own distribution: of its logits before any rule, temperature or cut.

    Attributes:
        token_id: the token.
        logprob: its natural log-probability.
        top: the most likely tokens with their log-probabilities, the most likely first; of equally likely ones, those
            with the lowest ids first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object; the most likely tokens are objects with `token_id` and `logprob`."""
        top = [{"token_id": token, "logprob": logprob} for token, logprob in self.top]
        return {"token_id": self.token_id, "logprob": self.logprob, "top": top}


def token_logprobs(logits: Tensor, token_ids: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
    """The log-probabilities of a token for each row, and of the row's most likely tokens.

    Args:
        logits: `[rows, vocabulary]`, floating-point, as the model gives them. They are computed with in float32.
        token_ids: a token for each row.
        tops: how many of the most likely tokens are wanted for each row; no more than the vocabulary has are given.
    """
    result: list[TokenLogprobs] = []
    for start in range(0, len(token_ids), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        result += _of_rows(logits[rows], token_ids[rows], tops[rows])
    return result


def prompt_logprobs(logits: Tensor, token_ids: Sequence[int], top: int) -> list[TokenLogprobs | None]:
    """The log-probabilities of each token of a prompt after those before it; None for the first, which has none.

    Args:
        logits: `[tokens, vocabulary]` or `[tokens - 1, vocabulary]`, floating-point: row i follows token i.
        token_ids: the prompt.
        top: how many of the most likely tokens are wanted for each.
    """
    following = token_ids[1:]
    return [None, *token_logprobs(logits[: len(following)], following, [top] * len(following))]


def _of_rows(logits: Tensor, token_ids: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(list(token_ids), device=logits.device)[:, None])[:, 0].tolist()
    most = min(max(tops), logits.shape[1])
    # One more than wanted, which shows whether equally likely tokens lie on both sides of the end.
    values, ids = (part.tolist() for part in logprobs.topk(min(most + 1, logits.shape[1]))) if most else ([], [])
    result = []
    for row, (token, logprob, top) in enumerate(zip(token_ids, chosen, tops, strict=True)):
        best = _best(logprobs[row], values[row], ids[row], min(top, most)) if top else ()
        result.append(TokenLogprobs(token, logprob, best))
    return result


def _best(logprobs: Tensor, values: list[float], ids: list[int], count: int) -> tuple[tuple[int, float], ...]:
    """The `count` best tokens of a row, whose order among equals no device decides."""
    last = values[count - 1]
    better = [(token, value) for token, value in zip(ids, values, strict=True) if value > last]
    if count < len(values) and values[count] == last:
        equal = (logprobs == last).nonzero()[: count - len(better), 0].tolist()
        better += [(token, last) for token in equal]
    else:
        better += [(token, last) for token, value in zip(ids[:count], values[:count], strict=True) if value == last]
    return tuple(sorted(better, key=lambda pair: (-pair[1], pair[0])))
