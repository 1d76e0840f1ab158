"""The rules over a request's logits, beside the processors of transformers of the same names."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process

from runtime.generation.logits_rules import penalties, sequences, tokens, values
from runtime.generation.logits_rules.rule import History, LogitsRule

VOCABULARY = 12
ids = st.integers(0, VOCABULARY - 1)


@st.composite
def requests(draw):
    """A history of some rows, and random logits for each, some of which are -inf."""
    rows, prompt, new = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(0, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    # Few different tokens, so that they come again.
    token_ids = torch.randint(0, draw(st.sampled_from([2, 4, VOCABULARY])), (rows, prompt + new), generator=generator)
    logits = torch.randn(rows, VOCABULARY, generator=generator) * 4
    logits[torch.rand(rows, VOCABULARY, generator=generator) < draw(st.sampled_from([0, 0.2]))] = -math.inf
    return History(token_ids, prompt), logits


def assert_same(rule: LogitsRule, processor, request, *, exact=True) -> None:
    history, logits = request
    expected = processor(history.token_ids, logits.clone())
    got = rule.apply(history, logits.clone())
    # Biases of one token may be summed in another order: a few roundings of numbers below 64.
    torch.testing.assert_close(got, expected, rtol=0, atol=0 if exact else 64 * 2**-22)


@given(requests(), st.sampled_from([0.5, 1.1, 2.0]))
def test_repetition_penalty(request_, penalty) -> None:
    expected = logits_process.RepetitionPenaltyLogitsProcessor(penalty)
    assert_same(penalties.RepetitionPenalty(penalty), expected, request_)


@given(requests(), st.sampled_from([-1.5, 0.25, 2.0]))
def test_frequency_and_presence_penalty_count_the_new_tokens_alone(request_, penalty) -> None:
    history, logits = request_
    frequency, presence = logits.clone(), logits.clone()
    for row, row_tokens in enumerate(history.token_ids.tolist()):
        new = row_tokens[history.prompt_tokens :]
        for token in set(new):
            frequency[row, token] -= penalty * new.count(token)
            presence[row, token] -= penalty
    got = penalties.FrequencyPenalty(penalty).apply(history, logits.clone())
    torch.testing.assert_close(got, frequency, rtol=0, atol=0)  # multiples of a power of two: products are exact
    got = penalties.PresencePenalty(penalty).apply(history, logits.clone())
    torch.testing.assert_close(got, presence, rtol=0, atol=0)


@given(requests(), st.integers(1, 4))
def test_no_repeat_ngram(request_, size) -> None:
    expected = logits_process.NoRepeatNGramLogitsProcessor(size)
    assert_same(sequences.NoRepeatNGram(size), expected, request_)


@given(requests(), st.dictionaries(st.lists(ids, min_size=1, max_size=3).map(tuple), st.floats(-9, 9), min_size=1))
def test_sequence_bias(request_, biases) -> None:
    expected = logits_process.SequenceBiasLogitsProcessor(biases)
    assert_same(sequences.SequenceBias(biases.items()), expected, request_, exact=False)


@given(requests(), st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=6), ids)
def test_bad_words(request_, words, end) -> None:
    if all(word == [end] for word in words):
        words = [*words, [0, 1]]  # transformers fails where it filters out all
    expected = logits_process.NoBadWordsLogitsProcessor(words, [end])
    assert_same(sequences.BadWords(words, [end]), expected, request_)


@given(requests(), st.integers(1, 14), st.lists(ids, min_size=1, max_size=3))
def test_minimum_length(request_, count, ends) -> None:
    history, _ = request_
    rule = tokens.MinNewTokens(count, ends)
    expected = logits_process.MinNewTokensLengthLogitsProcessor(history.prompt_tokens, count, ends)
    assert_same(rule, expected, request_)
    assert_same(rule, logits_process.MinLengthLogitsProcessor(history.prompt_tokens + count, ends), request_)


@given(requests(), st.lists(ids, min_size=1, max_size=3), st.integers(0, 1))
def test_suppressed_tokens(request_, forbidden, begin) -> None:
    history, _ = request_
    assert_same(tokens.SuppressTokens(forbidden), logits_process.SuppressTokensLogitsProcessor(forbidden), request_)
    expected = logits_process.SuppressTokensAtBeginLogitsProcessor(forbidden, history.prompt_tokens + begin)
    assert_same(tokens.SuppressTokensAtBegin(forbidden, begin), expected, request_)


@given(requests(), ids, st.lists(ids, min_size=1, max_size=3), st.integers(1, 13))
def test_forced_tokens(request_, first, last, count) -> None:
    history, _ = request_
    assert_same(tokens.ForcedBOS(first), logits_process.ForcedBOSTokenLogitsProcessor(first), request_)
    expected = logits_process.ForcedEOSTokenLogitsProcessor(history.prompt_tokens + count, last)
    assert_same(tokens.ForcedEOS(count, last), expected, request_)


@given(requests(), st.integers(0, 8), st.sampled_from([0.9, 1.05, 2.0]), st.lists(ids, min_size=1, max_size=3))
def test_exponential_decay(request_, start, factor, ends) -> None:
    history, _ = request_
    expected = logits_process.ExponentialDecayLengthPenalty((start, factor), list(ends), history.prompt_tokens)
    assert_same(tokens.ExponentialDecayLengthPenalty(start, factor, ends), expected, request_)


def test_a_decay_beyond_all_floats_leaves_end_tokens_forbidden() -> None:
    logits = torch.tensor([[1.0, -math.inf, 2.0]])
    history = History(torch.tensor([[1] * 9]), 1)
    decay = tokens.ExponentialDecayLengthPenalty(0, 1e100, [1])
    assert decay.apply(history, logits.clone()).tolist() == logits.tolist()
    assert decay.apply(history, torch.ones(1, 3)).tolist() == [[1.0, math.inf, 1.0]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_invalid_values(value) -> None:
    logits = torch.tensor([[1.0, value, -2.0]])
    history = History(torch.tensor([[1]]), 1)
    assert_same(values.RemoveInvalidValues(), logits_process.InfNanRemoveLogitsProcessor(), (history, logits))


@given(requests())
def test_normalization(request_) -> None:
    assert_same(values.Normalization(), logits_process.LogitNormalization(), request_)
