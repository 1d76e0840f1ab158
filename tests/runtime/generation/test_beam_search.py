"""Beam search beside that of transformers."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
import transformers

from compiler.errors import RequestError
from runtime.generation.beam_search import BeamSearch
from runtime.generation.logits_rules.request import RuleContext
from runtime.generation.sampling_params import SamplingParams
from tests.paths import MODELS

NEW_TOKENS = 10
# What the checkpoints say early, so that texts end in the middle of a search.
PROMPT = [40, 41, 42]


@functools.cache
def model_of(name, dtype=torch.float32):
    model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=dtype).eval()
    # As the search below computes: a cache would round otherwise.
    model.generation_config.use_cache = False
    return model


@functools.cache
def common_token(name):
    """The token that the model's greedy text after the prompt has second."""
    with torch.inference_mode():
        text = model_of(name).generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=4, eos_token_id=None)
    return int(text[0, len(PROMPT) + 1])


def by_transformers(model, ends, prompt=PROMPT, **fields):
    """The new tokens and scores of the texts that transformers returns, and how many steps it takes."""
    ids = torch.tensor([prompt])
    result = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=ends, pad_token_id=0,
        return_dict_in_generate=True, output_scores=True, max_new_tokens=NEW_TOKENS, **fields,
    )  # fmt: skip
    lengths = (result.beam_indices >= 0).sum(1).tolist()
    rows = zip(result.sequences.tolist(), lengths, strict=True)
    start = len(prompt)
    texts = [tuple(row[start : start + length]) for row, length in rows]
    return texts, result.sequences_scores.tolist(), len(result.scores)


def search(model, ends, prompt=PROMPT, **fields):
    """A finished search whose logits transformers computes; its rows follow from the sources and tokens returned."""
    context = RuleContext(len(prompt), NEW_TOKENS, ends, model.config.vocab_size)
    beams = BeamSearch(SamplingParams(**fields), context, prompt)
    rows = [prompt]
    while not beams.finished:
        with torch.inference_mode():
            step = beams.advance(model(torch.tensor(rows)).logits[:, -1])
        assert all(source < len(rows) for source in step.sources)
        rows = [[*rows[source], token] for source, token in zip(step.sources, step.tokens, strict=True)]
        assert rows == beams.token_ids
    return beams


@pytest.mark.parametrize("name", ["gptneox-tiny", "opt-tiny"])
@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_texts_are_those_of_transformers(name, beams, early_stopping) -> None:
    model, stopped = model_of(name), 0
    common = common_token(name)
    for length_penalty, returned, ends in itertools.product([1.0, 0.0, -1.0, 2.0], [1, 2], [[0], [0, common, 13]]):
        fields = {
            "num_beams": beams, "length_penalty": length_penalty, "early_stopping": early_stopping,
            "num_return_sequences": returned,
        }  # fmt: skip
        texts, scores, _ = by_transformers(model, ends, **fields)
        found = search(model, ends, **fields).hypotheses()
        assert [one.token_ids for one in found] == texts, fields
        # Both are computed in float32, of logits that batches of different sizes may round differently.
        torch.testing.assert_close([one.score for one in found], scores, rtol=1e-4, atol=1e-4)
        for one in found:
            assert (one.finish_reason == "stop") == (one.token_ids[-1] in ends)
        stopped += sum(one.finish_reason == "stop" for one in found)
    assert stopped


@pytest.mark.parametrize("name", ["gptj-tiny", "mpt-tiny"])
def test_rules_apply_to_the_log_probabilities_of_the_beams(name) -> None:
    fields = {
        "num_beams": 3, "num_return_sequences": 3, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2,
        "min_new_tokens": 4, "suppress_tokens": [common_token(name)], "renormalize_logits": True,
    }  # fmt: skip
    model = model_of(name)
    texts, _, _ = by_transformers(model, [0, 13], **fields)
    found = [one.token_ids for one in search(model, [0, 13], **fields).hypotheses()]
    assert found == texts
    assert found != [one.token_ids for one in search(model, [0, 13], num_beams=3, num_return_sequences=3).hypotheses()]


def test_a_model_in_float64_is_searched_in_float32_as_well() -> None:
    model = model_of("gptneox-tiny", torch.float64)
    fields = {"num_beams": 4, "num_return_sequences": 4}
    texts, scores, _ = by_transformers(model, [0], **fields)
    found = search(model, [0], **fields).hypotheses()
    assert [one.token_ids for one in found] == texts
    assert [one.score for one in found] == pytest.approx(scores, rel=1e-6)


class Table:
    """A model whose logits follow from the last token alone."""

    def __init__(self, logits) -> None:
        self.logits = torch.tensor(logits)

    def run(self, beams, prompt):
        rows = [prompt]
        while not beams.finished:
            step = beams.advance(self.logits[[row[-1] for row in rows]])
            rows = [[*rows[source], token] for source, token in zip(step.sources, step.tokens, strict=True)]
        return beams.hypotheses()


def searching(ends=(), count=3, stops=None, vocabulary=4, **fields):
    context = RuleContext(1, count, list(ends), vocabulary)
    return BeamSearch(SamplingParams(**{"num_beams": 2, **fields}), context, [0], stops)


def small_model(seed, vocabulary=20):
    torch.manual_seed(seed)
    config = transformers.GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        initializer_range=1.0, use_cache=False,
    )  # fmt: skip
    return transformers.GPTNeoXForCausalLM(config).eval()


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 3.0])
def test_searches_end_when_those_of_transformers_do(early_stopping, length_penalty) -> None:
    fields = {"early_stopping": early_stopping, "length_penalty": length_penalty, "num_return_sequences": 2}
    counts = set()
    for seed, (beams, ends) in itertools.product(
        range(3), [(2, [3]), (4, [3, 4, 5, 6, 7, 8]), (2, list(range(2, 19)))]
    ):
        model = small_model(seed)
        texts, scores, steps = by_transformers(model, ends, [1, 2], num_beams=beams, **fields)
        beam_search = search(model, ends, [1, 2], num_beams=beams, **fields)
        found = beam_search.hypotheses()
        assert [one.token_ids for one in found] == texts
        torch.testing.assert_close([one.score for one in found], scores, rtol=1e-4, atol=1e-4)
        assert beam_search.new_tokens == steps
        counts.add(steps)
    assert len(counts) > 1 or early_stopping == "never"


@pytest.mark.parametrize("beams", [2, 5])
def test_ties_are_resolved_as_in_transformers(beams) -> None:
    model = small_model(0)
    torch.nn.init.zeros_(model.lm_head.weight)  # every token is as likely as any other, after every text
    fields = {"num_beams": beams, "num_return_sequences": beams}
    texts, _, _ = by_transformers(model, [3], [1, 2], **fields)
    assert [one.token_ids for one in search(model, [3], [1, 2], **fields).hypotheses()] == texts


def test_the_best_of_all_texts_is_found_where_every_one_is_followed() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) * 2
    found = Table(logits.tolist()).run(searching(num_beams=64, num_return_sequences=64, length_penalty=0.0), [0])
    logprobs = logits.log_softmax(-1)
    scores = {
        text: float(logprobs[0, text[0]] + logprobs[text[0], text[1]] + logprobs[text[1], text[2]])
        for text in itertools.product(range(4), repeat=3)
    }
    assert {one.token_ids for one in found} == set(scores)
    assert [one.score for one in found] == pytest.approx([scores[one.token_ids] for one in found], rel=1e-5)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_texts_can_end_by_something_else_than_a_token() -> None:
    def spells(token_ids):
        return list(token_ids[-2:]) == [1, 2]

    logits = [[0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0], [5.0, 0.0, 0.0, 0.0], [0.0] * 4]
    (found,) = Table(logits).run(searching(count=8, stops=spells), [0])
    assert found.token_ids == (1, 2)
    assert found.finish_reason == "stop"


def test_stop_ids_end_texts_and_the_last_token_counts_as_one() -> None:
    logits = [[0.0, 1.0, 0.0, 5.0]] * 4
    (found,) = Table(logits).run(searching(stop_token_ids=[3], count=1), [0])
    assert (found.token_ids, found.finish_reason) == ((3,), "stop")
    (found,) = Table(logits).run(searching(ends=[3], ignore_eos=True, count=2), [0])
    assert (found.token_ids, found.finish_reason) == ((3, 3), "length")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(value) -> None:
    with pytest.raises(RequestError, match="the model's logits are not finite"):
        searching().advance(torch.tensor([[0.0, value, 0.0, 0.0]]))


def test_rules_that_leave_no_token_are_an_error() -> None:
    with pytest.raises(RequestError, match="leave no token"):
        searching(suppress_tokens=[0, 1, 2, 3]).advance(torch.zeros(1, 4))


def test_logits_are_left_as_they_are() -> None:
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    searching(suppress_tokens=[1], repetition_penalty=2.0).advance(logits)
    assert torch.equal(logits, before)
