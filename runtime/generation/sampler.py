"""Choosing the next tokens of a batch in which every sequence has its own parameters.

What a sequence gets depends on its own logits, its tokens so far, its parameters and its seed: neither on the other
rows nor on the place of its row. The draw of token `i` of sample `j` follows from `(seed, j, i)` alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.errors import RequestError
from runtime.generation.draws import draw
from runtime.generation.log_probabilities import TokenLogprobs, token_logprobs
from runtime.generation.logits_rules.cuts import cut, has_cuts, temperature
from runtime.generation.logits_rules.request import RuleContext, request_rules
from runtime.generation.logits_rules.rule import History
from runtime.generation.random_numbers import uniform
from runtime.generation.sampling import not_finite
from runtime.generation.sampling_params import SamplingParams


class SampledSequence:
    """A sequence whose tokens are chosen one after another: greedily or drawn at random.

    Args:
        params: the request's parameters. If the request has several samples, they are to share a seed: give them
            `params.seeded()`.
        context: what else the rules of the request follow from.
        prompt: the prompt's token ids.
        sample: which of the request's samples this is, from 0.

    Attributes:
        params: the parameters, with the seed that is used; it is drawn here if there was none.
        sample: see above.
        rules: the rules over its logits.
        token_ids: the prompt and the new tokens.

    Raises:
        RequestError: if the parameters name a token id that the model does not have.
    """

    def __init__(self, params: SamplingParams, context: RuleContext, prompt: Sequence[int], sample: int = 0) -> None:
        self.params = params if params.greedy else params.seeded()
        self.sample = sample
        self.rules = request_rules(params, context)
        self.token_ids = list(prompt)
        self._prompt_tokens = len(prompt)

    @property
    def position(self) -> int:
        """How many new tokens it has."""
        return len(self.token_ids) - self._prompt_tokens

    @property
    def plain(self) -> bool:
        """Whether it wants nothing but the most likely token."""
        return not self.rules and self.params.greedy and self.params.logprobs is None

    def append(self, token: int) -> None:
        """Take up a token that was chosen."""
        self.token_ids.append(token)

    def ruled(self, logits: Tensor) -> Tensor:
        """The logits `f32[vocabulary]` after the rules, of logits `[vocabulary]` that are left as they are.

        Raises:
            RequestError: if a function of the user's fails, or if the rules leave no token possible.
        """
        history = History(torch.tensor([self.token_ids], device=logits.device), self._prompt_tokens)
        result = logits[None].to(torch.float32, copy=True)
        for rule in self.rules:
            result = rule.apply(history, result)
        best = float(result.max())
        if not math.isfinite(best):
            raise _nothing_left(best)
        return result[0]


@dataclass(frozen=True)
class Choice:
    """The next token of a sequence; with its log-probabilities, if they are asked for."""

    token: int
    logprobs: TokenLogprobs | None = None


@torch.inference_mode()
def choose(sequences: Sequence[SampledSequence | None], logits: Tensor) -> list[Choice | RequestError | None]:
    """The next token of every sequence. The sequences do not take it up: see `SampledSequence.append`.

    Args:
        sequences: the sequence of each row; None for a row that has none, which may hold anything.
        logits: `[rows, vocabulary]`, floating-point, on any device; they are left as they are.

    Returns:
        For each row its choice, or the error with which this sequence, and no other, fails: its logits are no numbers,
        a function of the user's failed, or the rules left no token. None for a row without a sequence.
    """
    largest, best = (part.tolist() for part in logits.max(-1))
    results: list[Choice | RequestError | None] = [None] * len(sequences)
    ruled: dict[int, Tensor] = {}
    draws: list[int] = []
    for row, sequence in enumerate(sequences):
        if sequence is None:
            continue
        if not math.isfinite(largest[row]) and not sequence.params.remove_invalid_values:
            results[row] = not_finite(largest[row])
            continue
        try:
            if sequence.rules:
                ruled[row] = sequence.ruled(logits[row])
        except RequestError as error:
            results[row] = error
            continue
        if sequence.params.greedy:
            results[row] = Choice(int(ruled[row].max(-1).indices) if row in ruled else best[row])
        else:
            draws.append(row)
    for row, token in zip(draws, _drawn([_known(sequences[row]) for row in draws], logits, draws, ruled), strict=True):
        results[row] = Choice(token)
    return _with_logprobs(sequences, logits, results)


def _drawn(
    sequences: Sequence[SampledSequence], logits: Tensor, rows: Sequence[int], ruled: dict[int, Tensor]
) -> list[int]:
    """A token drawn for each of some sequences, which are those of the rows named; `ruled` holds changed logits."""
    if not rows:
        return []
    chosen = (logits if len(rows) == len(logits) else logits[list(rows)]).float()
    if ruled:
        chosen = torch.stack([ruled.get(row, given) for row, given in zip(rows, chosen, strict=True)])
    params = [sequence.params for sequence in sequences]
    numbers = torch.from_numpy(
        uniform(
            [sequence.params.seed or 0 for sequence in sequences],
            [sequence.sample for sequence in sequences],
            [sequence.position for sequence in sequences],
        )
    ).to(logits.device)
    return draw_tokens(chosen, params, numbers)


def draw_tokens(logits: Tensor, params: Sequence[SamplingParams], numbers: Tensor) -> list[int]:
    """Draw a token for each row, of the distribution that its temperature and its cuts leave.

    Args:
        logits: `f32[rows, vocabulary]`; NaN and +inf are in none, and every row has one that is not -inf.
        params: the parameters of each row.
        numbers: `f64[rows]`, uniform random numbers in [0, 1).
    """
    scale = temperature(params, logits.device)
    scaled = scale.apply(logits) if scale else logits
    tokens = [0] * len(params)
    cuts = [row for row, one in enumerate(params) if has_cuts(one)]
    others = [row for row, one in enumerate(params) if not has_cuts(one)]
    if others:
        rows = scaled if not cuts else scaled[others]
        weights = (rows - rows.amax(-1, keepdim=True)).exp_()
        for row, token in zip(others, draw(weights, numbers[others]).tolist(), strict=True):
            tokens[row] = token
    if cuts:
        rows = scaled if not others else scaled[cuts]
        for places, candidates in cut(rows, [params[row] for row in cuts]):
            found = [cuts[place] for place in places]
            ids, order = candidates.ids.sort(-1)
            weights = (candidates.logits - candidates.logits.amax(-1, keepdim=True)).exp().gather(1, order)
            drawn = ids.gather(1, draw(weights, numbers[found])[:, None])[:, 0]
            for row, token in zip(found, drawn.tolist(), strict=True):
                tokens[row] = token
    return tokens


def _with_logprobs(
    sequences: Sequence[SampledSequence | None], logits: Tensor, results: list[Choice | RequestError | None]
) -> list[Choice | RequestError | None]:
    """The results, with the log-probabilities that sequences ask for."""
    wanted = {
        row: (result.token, sequence.params.logprobs)
        for row, (sequence, result) in enumerate(zip(sequences, results, strict=True))
        if sequence is not None and isinstance(result, Choice) and sequence.params.logprobs is not None
    }
    if wanted:
        tokens, tops = zip(*wanted.values(), strict=True)
        reported = token_logprobs(logits[list(wanted)], tokens, tops)
        for row, logprobs in zip(wanted, reported, strict=True):
            results[row] = Choice(logprobs.token_id, logprobs)
    return results


def _known(sequence: SampledSequence | None) -> SampledSequence:
    assert sequence is not None
    return sequence


def _nothing_left(best: float) -> RequestError:
    if best == -math.inf:
        return RequestError(
            "the rules over logits leave no token that could come next",
            hint="forbid fewer tokens (suppress_tokens, bad_words, no_repeat_ngram_size, min_new_tokens)",
        )
    return RequestError(
        f"the logits are not finite ({best}) after the rules over them",
        hint="remove_invalid_values=True makes them finite; look at logits_processors",
    )
