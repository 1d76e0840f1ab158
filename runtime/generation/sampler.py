"""Choosing the next tokens of a batch in which every sequence has its own parameters.

What a sequence gets depends on its own logits, its tokens so far, its parameters and its seed: neither on the other
rows nor on the place of its row. The draw of token `i` of sample `j` follows from `(seed, j, i)` alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.errors import RequestError
from runtime.generation.draws import draw
from runtime.generation.log_probabilities import TokenLogprobs, token_logprobs
from runtime.generation.logits_rules.cuts import cut, has_cuts, temperature
from runtime.generation.logits_rules.request import RuleContext, apply_rules, request_rules
from runtime.generation.logits_rules.rule import History
from runtime.generation.random_numbers import uniform
from runtime.generation.sampling import most_likely, not_finite
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

    def append(self, token: int) -> None:
        """Take up a token that was chosen."""
        self.token_ids.append(token)

    def ruled(self, logits: Tensor) -> Tensor:
        """The logits `f32[vocabulary]` after the rules, of logits `[vocabulary]` that are left as they are.

        Raises:
            RequestError: if a function of the user's fails, or if the rules leave no token possible.
        """
        history = History(torch.tensor([self.token_ids], device=logits.device), self._prompt_tokens)
        return apply_rules(self.rules, history, logits[None].to(torch.float32, copy=True))[0]


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
    largest, best = most_likely(logits)
    results: list[Choice | RequestError | None] = [None] * len(sequences)
    ruled: dict[int, Tensor] = {}
    drawing: dict[int, SampledSequence] = {}
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
            drawing[row] = sequence
    if drawing:
        for row, token in zip(drawing, _drawn(drawing, logits, ruled), strict=True):
            results[row] = Choice(token)
    return _with_logprobs(sequences, logits, results)


def _drawn(drawing: Mapping[int, SampledSequence], logits: Tensor, ruled: Mapping[int, Tensor]) -> list[int]:
    """A token drawn for each of some sequences by the numbers of their rows; `ruled` holds the logits that differ."""
    chosen = (logits if len(drawing) == len(logits) else logits[list(drawing)]).float()
    if any(row in ruled for row in drawing):
        chosen = torch.stack([ruled.get(row, given) for row, given in zip(drawing, chosen, strict=True)])
    sequences = drawing.values()
    numbers = uniform(
        [sequence.params.seed or 0 for sequence in sequences],
        [sequence.sample for sequence in sequences],
        [sequence.position for sequence in sequences],
    )
    return draw_tokens(chosen, [one.params for one in sequences], torch.from_numpy(numbers).to(logits.device))


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
