"""The rules of a request, in the order in which they apply."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from compiler.errors import RequestError
from runtime.generation.logits_rules import penalties, sequences, tokens, values
from runtime.generation.logits_rules.functions import UserFunction
from runtime.generation.logits_rules.rule import History, LogitsRule
from runtime.generation.sampling_params import SamplingParams


@dataclasses.dataclass(frozen=True)
class RuleContext:
    """What the rules of a request follow from besides its parameters.

    Attributes:
        prompt_tokens: how many tokens the prompt has.
        max_new_tokens: how many new tokens the request gets at most, which an engine's limits may have lowered.
        end_ids: the model's end tokens.
        vocab_size: token ids are below it.
        bad_words_ids: the tokens of the request's bad words that are texts; see `bad_words.bad_word_ids`.
    """

    prompt_tokens: int
    max_new_tokens: int
    end_ids: Sequence[int]
    vocab_size: int
    bad_words_ids: Sequence[Sequence[int]] = ()


def request_rules(params: SamplingParams, context: RuleContext) -> tuple[LogitsRule, ...]:
    """The rules of a request, without those that shape the distribution of a draw; none if it asks for none.

    They apply in the order in which transformers applies them: biases (`sequence_bias`, `logit_bias`), repetition,
    frequency and presence penalty, repeated n-grams, bad words, minimum length, forced tokens, values that are not
    finite, exponential decay, suppressed tokens, the user's functions, and the normalization of logits. Temperature
    and what cuts a distribution (see `cuts`) come after the user's functions.

    Raises:
        RequestError: if the parameters name a token id that the model does not have.
    """
    check_token_ids(params, context.vocab_size)
    known_ends = tuple(token for token in context.end_ids if token < context.vocab_size)
    return tuple(_rules(params, dataclasses.replace(context, end_ids=known_ends)))


def check_token_ids(params: SamplingParams, vocab_size: int) -> None:
    """Check that parameters name no token id that a model does not have, and ask for no more tokens than it has.

    Raises:
        RequestError: naming the field and the id, or the number.
    """
    forced_bos = [] if params.forced_bos_token_id is None else [params.forced_bos_token_id]
    named = {
        "stop_token_ids": params.stop_token_ids,
        "bad_words_ids": [token for sequence in params.bad_words_ids for token in sequence],
        "logit_bias": list(params.logit_bias),
        "sequence_bias": [token for sequence, _ in params.sequence_bias for token in sequence],
        "suppress_tokens": params.suppress_tokens,
        "begin_suppress_tokens": params.begin_suppress_tokens,
        "forced_bos_token_id": forced_bos,
        "forced_eos_token_id": params.forced_eos_token_id,
    }
    for field, ids in named.items():
        if (unknown := next((token for token in ids if token >= vocab_size), None)) is not None:
            raise RequestError(
                f"{field} holds the token id {unknown}; the model's ids are 0 to {vocab_size - 1}",
                hint="check that the ids come from this model's tokenizer",
            )
    for field in ("logprobs", "prompt_logprobs"):
        if (wanted := getattr(params, field) or 0) > vocab_size:
            raise RequestError(
                f"{field} is {wanted}; the model has {vocab_size} tokens", hint=f"ask for {vocab_size} at most"
            )


def apply_rules(rules: Sequence[LogitsRule], history: History, logits: Tensor) -> Tensor:
    """The logits after some rules, one after another.

    Args:
        rules: the rules.
        history: the tokens of each row so far.
        logits: `f32[rows, vocabulary]`, which rules may write into.

    Raises:
        RequestError: if a function of the user's fails, or if the rules leave no token possible or a logit that is not
            finite.
    """
    for rule in rules:
        logits = rule.apply(history, logits)
    largest = float(logits.max())
    if largest == -math.inf:
        raise RequestError(
            "the rules over logits leave no token that could come next",
            hint="forbid fewer tokens (suppress_tokens, bad_words, no_repeat_ngram_size, min_new_tokens)",
        )
    if not math.isfinite(largest):
        raise RequestError(
            f"the logits are not finite ({largest}) after the rules over them",
            hint="remove_invalid_values=True makes the model's own logits finite; look at logits_processors",
        )
    return logits


def stop_ids(params: SamplingParams, end_ids: Sequence[int]) -> frozenset[int]:
    """The tokens that end the text of a request: its stop ids, and the model's end tokens unless it ignores them."""
    return frozenset(params.stop_token_ids) | frozenset(() if params.ignore_eos else end_ids)


def _rules(params: SamplingParams, context: RuleContext) -> Iterator[LogitsRule]:
    ends = () if params.ignore_eos else tuple(context.end_ids)
    if biases := [*params.sequence_bias, *(((token,), bias) for token, bias in params.logit_bias.items())]:
        yield sequences.SequenceBias(biases)
    yield from _penalties(params)
    if params.no_repeat_ngram_size:
        yield sequences.NoRepeatNGram(params.no_repeat_ngram_size)
    if bad := [*params.bad_words_ids, *context.bad_words_ids]:
        yield sequences.BadWords(bad, ends)
    least, stops = params.new_tokens_at_least(context.prompt_tokens), sorted(stop_ids(params, context.end_ids))
    if least and stops:
        yield tokens.MinNewTokens(least, stops)
    yield from _forced(params, context)
    if params.remove_invalid_values:
        yield values.RemoveInvalidValues()
    if params.exponential_decay_length_penalty is not None and ends:
        yield tokens.ExponentialDecayLengthPenalty(*params.exponential_decay_length_penalty, ends)
    if params.suppress_tokens:
        yield tokens.SuppressTokens(params.suppress_tokens)
    if params.begin_suppress_tokens:
        forced = context.prompt_tokens == 1 and params.forced_bos_token_id is not None
        yield tokens.SuppressTokensAtBegin(params.begin_suppress_tokens, begin=int(forced))
    yield from map(UserFunction, params.logits_processors)
    if params.renormalize_logits:
        yield values.Normalization()


def _penalties(params: SamplingParams) -> Iterator[LogitsRule]:
    if params.repetition_penalty != 1:
        yield penalties.RepetitionPenalty(params.repetition_penalty)
    if params.frequency_penalty:
        yield penalties.FrequencyPenalty(params.frequency_penalty)
    if params.presence_penalty:
        yield penalties.PresencePenalty(params.presence_penalty)


def _forced(params: SamplingParams, context: RuleContext) -> Iterator[LogitsRule]:
    if params.forced_bos_token_id is not None:
        yield tokens.ForcedBOS(params.forced_bos_token_id)
    if params.forced_eos_token_id:
        yield tokens.ForcedEOS(context.max_new_tokens, params.forced_eos_token_id)
