"""Beam search of one request, as a pure object: it takes logits, and says which rows go on with which tokens.

It decides as `generate(num_beams=…)` of transformers 5 does, down to the types of its numbers and to how it resolves
ties, so that both return the same texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from runtime.generation.logits_rules.request import RuleContext, apply_rules, request_rules, stop_ids
from runtime.generation.logits_rules.rule import History, LogitsRule
from runtime.generation.sampling import not_finite
from runtime.generation.sampling_params import SamplingParams

# What transformers takes for the logarithm of no probability.
_NEVER = -1.0e9

Ends = Callable[[Sequence[int]], bool]
"""Whether a text ends with the last of its new tokens, though that is no stop id: by a stop string, say."""


@dataclass(frozen=True)
class Continuation:
    """How the rows of a beam search go on: row i takes over the state of row `sources[i]`, then gets `tokens[i]`.

    If the logits of the first step were of one row, all sources are 0 in it.
    """

    sources: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Hypothesis:
    """A text that a beam search has found.

    Attributes:
        token_ids: the new tokens; a stop id that ended it is the last.
        score: the sum of its tokens' log-probabilities, divided by a power of its length.
        finish_reason: `stop` if a stop id or `Ends` ended it, `length` if the number of tokens did.
    """

    token_ids: tuple[int, ...]
    score: float
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class _Steps:
    """Candidates for the next token of a text, best first: their scores, rows and tokens, and whether they end it."""

    scores: Tensor
    sources: Tensor
    tokens: Tensor
    ended: Tensor


class BeamSearch:
    """The state of one request's beam search.

    Args:
        params: the request's parameters.
        context: what else the request's rules follow from.
        prompt: the prompt's token ids.
        ends: what else ends a text; see `Ends`.

    Attributes:
        finished: whether the search has ended, and `hypotheses` has the result.

    Raises:
        RequestError: if the parameters name a token id that the model does not have.
    """

    def __init__(
        self, params: SamplingParams, context: RuleContext, prompt: Sequence[int], ends: Ends | None = None
    ) -> None:
        self.finished = False
        self._beams, self._returned = params.num_beams, params.num_return_sequences
        self._length_penalty, self._early_stopping = params.length_penalty, params.early_stopping
        self._remove_invalid = params.remove_invalid_values
        self._rules: tuple[LogitsRule, ...] = request_rules(params, context)
        self._stops: Collection[int] = stop_ids(params, context.end_ids)
        self._ends, self._most = ends, context.max_new_tokens
        self._prompt = len(prompt)
        self._token_ids = torch.tensor([list(prompt)] * self._beams)
        # Only the first beam counts before the first step: all of them are the same.
        self._scores = torch.full((self._beams,), _NEVER).index_fill_(0, torch.tensor([0]), 0.0)
        self._found: list[tuple[tuple[int, ...], bool]] = [((), False)] * self._beams
        self._found_scores = torch.full((self._beams,), _NEVER)
        self._found_done = torch.zeros(self._beams, dtype=torch.bool)

    @property
    def new_tokens(self) -> int:
        """How many new tokens every beam has."""
        return self._token_ids.shape[1] - self._prompt

    @property
    def token_ids(self) -> list[list[int]]:
        """The prompt and new tokens of every beam."""
        return [list(map(int, row)) for row in self._token_ids.tolist()]

    @torch.inference_mode()
    def advance(self, logits: Tensor) -> Continuation:
        """Take one step of the search.

        Args:
            logits: `[beams, vocabulary]`, floating-point, those after the last token of every beam; in the first step
                also `[1, vocabulary]`, those after the prompt. They are left as they are.

        Returns:
            Which rows go on, and with which tokens. It need not be followed if the search is `finished` then.

        Raises:
            RequestError: if the logits are no numbers, a function of the user's fails, or the rules leave no token.
        """
        steps = self._candidates(self._log_probabilities(logits))
        self._take_finished(steps)
        continuation = self._go_on(steps)
        if len(logits) == 1:
            continuation = Continuation((0,) * self._beams, continuation.tokens)
        full = bool(self._found_done.all()) and self._early_stopping is True
        self.finished = full or not self._may_improve() or bool(steps.ended.all())
        return continuation

    def hypotheses(self) -> list[Hypothesis]:
        """The texts found so far, the best first, no more than the request wants returned."""
        found = zip(self._found, self._found_scores.tolist(), self._found_done.tolist(), strict=True)
        return [
            Hypothesis(token_ids, score, "stop" if stopped else "length")
            for (token_ids, stopped), score, done in list(found)[: self._returned]
            if done
        ]

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        """The log-probabilities of every beam's next token after the rules, on the CPU, `f32[beams, vocabulary]`."""
        given = logits.to(torch.float32).cpu()
        largest = float(given.max())
        if not math.isfinite(largest) and not self._remove_invalid:
            raise not_finite(largest)
        result = given.log_softmax(-1).expand(self._beams, -1)
        history = History(self._token_ids, self._prompt)
        return apply_rules(self._rules, history, result.contiguous())

    def _candidates(self, log_probabilities: Tensor) -> _Steps:
        """The best steps of all beams: so many that `beams` of them go on, even if every stop id is among them."""
        vocabulary = log_probabilities.shape[1]
        totals = (log_probabilities + self._scores[:, None]).flatten()
        count = min(max(2, 1 + len(self._stops)) * self._beams, len(totals))
        scores, places = totals.topk(count)
        sources, tokens = places // vocabulary, places % vocabulary
        return _Steps(scores, sources, tokens, self._ended(sources, tokens))

    def _ended(self, sources: Tensor, tokens: Tensor) -> Tensor:
        """Whether the text of each step ends with it, by its length or otherwise."""
        if self.new_tokens + 1 >= self._most:
            return torch.ones(len(tokens), dtype=torch.bool)
        steps = zip(sources.tolist(), tokens.tolist(), strict=True)
        return torch.tensor([self._stopped(source, token) for source, token in steps])

    def _stopped(self, source: int, token: int) -> bool:
        """Whether the text of a step ends with it, other than by its length."""
        return token in self._stops or (self._ends is not None and self._ends(self._text(source, token)))

    def _text(self, source: int, token: int) -> tuple[int, ...]:
        return (*map(int, self._token_ids[source, self._prompt :].tolist()), token)

    def _go_on(self, steps: _Steps) -> Continuation:
        """Make the best steps that end no text the new beams."""
        running = steps.scores + steps.ended.to(torch.float32) * _NEVER
        best = running.topk(self._beams).indices
        sources, tokens = steps.sources[best], steps.tokens[best]
        self._scores = running[best]
        self._token_ids = torch.cat([self._token_ids[sources], tokens[:, None]], 1)
        return Continuation(tuple(map(int, sources.tolist())), tuple(map(int, tokens.tolist())))

    def _take_finished(self, steps: _Steps) -> None:
        """Put the texts that end with the best `beams` steps among those found, if their scores are good enough."""
        done = steps.ended & (torch.arange(len(steps.ended)) < self._beams)
        scores = steps.scores / (self.new_tokens + 1) ** self._length_penalty
        scores += (~done).to(torch.float32) * _NEVER
        merged, merged_done = torch.cat([self._found_scores, scores]), torch.cat([self._found_done, done])
        best = merged.topk(self._beams).indices
        self._found = [self._found[i] if i < self._beams else self._hypothesis(steps, i - self._beams) for i in best]
        self._found_scores, self._found_done = merged[best], merged_done[best]

    def _hypothesis(self, steps: _Steps, place: int) -> tuple[tuple[int, ...], bool]:
        source, token = int(steps.sources[place]), int(steps.tokens[place])
        return self._text(source, token), self._stopped(source, token)

    def _may_improve(self) -> bool:
        """Whether a beam may still become better than the worst text found."""
        longest = self._early_stopping == "never" and self._length_penalty > 0
        length = self._most if longest else self.new_tokens
        return bool(self._scores[0] / length**self._length_penalty > self._found_scores.min())
