"""Which rules a request has, in which order."""

from typing import Any

import pytest
import torch
import transformers
from transformers.generation import logits_process

from compiler.errors import RequestError
from runtime.generation.logits_rules.request import RuleContext, request_rules, stop_ids
from runtime.generation.logits_rules.rule import History
from runtime.generation.sampling_params import SamplingParams

VOCABULARY = 60
PROMPT = [5, 6, 7, 5]


def context(prompt=PROMPT, **changes):
    return RuleContext(
        **{"prompt_tokens": len(prompt), "max_new_tokens": 8, "end_ids": [1, 2], "vocab_size": VOCABULARY, **changes}
    )


def apply(params, token_ids, logits, prompt=PROMPT):
    history, result = History(torch.tensor([token_ids]), len(prompt)), logits.clone()
    for rule in request_rules(params, context(prompt)):
        result = rule.apply(history, result)
    return result


def halved(token_ids, logits):
    logits[logits > 1] /= 2
    return logits


def processors(config, prompt, functions=()):
    """The processors that transformers makes of a generation config, in its order."""
    model = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    )
    config = transformers.GenerationConfig(eos_token_id=[1, 2], max_length=len(prompt) + 8, **config)
    model._prepare_special_tokens(config, device="cpu")
    given = logits_process.LogitsProcessorList(functions)
    return model._get_logits_processor(config, len(prompt), logits_processor=given, device="cpu")


class Halved:
    def __call__(self, input_ids, scores):
        return torch.stack([halved(*row) for row in zip(input_ids.tolist(), scores.clone(), strict=True)])


ALL: dict[str, Any] = {
    "sequence_bias": [[[7], 9.0], [[6, 8], 7.5]],
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[9], [5, 10]],
    "min_new_tokens": 3,
    "forced_eos_token_id": [1, 2],
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [3, 1.5],
    "suppress_tokens": [11, 12],
    "begin_suppress_tokens": [13],
    "renormalize_logits": True,
}


@pytest.mark.parametrize("new", [[], [5], [6, 7, 5], [8, 9, 5, 6], [7, 7, 8, 8, 9, 9, 5]])
@pytest.mark.parametrize("leave_out", [None, *ALL])
def test_rules_apply_in_the_order_of_transformers(new, leave_out) -> None:
    fields = {name: value for name, value in ALL.items() if name != leave_out}
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(len(new))) * 4
    token_ids = [*PROMPT, *new]
    expected = processors(fields, PROMPT, [Halved()])(torch.tensor([token_ids]), logits.clone())
    params = SamplingParams(**fields, max_new_tokens=8, logits_processors=[halved])
    # Two operations whose roundings may differ by one, of numbers below 64, and a log_softmax of them.
    torch.testing.assert_close(apply(params, token_ids, logits), expected, rtol=2**-20, atol=64 * 2**-20)


@pytest.mark.parametrize("prompt", [[5], [5, 6]])
@pytest.mark.parametrize("new", [0, 1, 2])
def test_what_is_forced_and_suppressed_at_the_beginning_follows_the_prompts_length(prompt, new) -> None:
    fields: dict[str, Any] = {"forced_bos_token_id": 3, "begin_suppress_tokens": [4]}
    token_ids = [*prompt, *[7] * new]
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(new))
    expected = processors(fields, prompt)(torch.tensor([token_ids]), logits.clone())
    assert torch.equal(apply(SamplingParams(**fields), token_ids, logits, prompt), expected)


def test_a_request_that_asks_for_nothing_has_no_rules() -> None:
    assert request_rules(SamplingParams(), context()) == ()
    assert request_rules(SamplingParams(temperature=0.5, top_k=3, top_p=0.5, seed=1, stop="x"), context()) == ()


def test_a_bias_of_tokens_is_a_sequence_bias() -> None:
    logits = torch.zeros(1, VOCABULARY)
    got = apply(SamplingParams(logit_bias={4: 2.5, 5: -1.0}), PROMPT, logits)
    assert got[0, 4] == 2.5 and got[0, 5] == -1.0 and int((got != 0).sum()) == 2


def test_stop_ids_are_not_possible_before_the_minimum_either() -> None:
    params = SamplingParams(min_new_tokens=1, stop_token_ids=[9])
    got = apply(params, PROMPT, torch.zeros(1, VOCABULARY))
    assert got.isinf().nonzero()[:, 1].tolist() == [1, 2, 9]
    ignoring = params.changed(ignore_eos=True)
    got = apply(ignoring, PROMPT, torch.zeros(1, VOCABULARY))
    assert got.isinf().nonzero()[:, 1].tolist() == [9]
    assert stop_ids(params, [1, 2]) == {1, 2, 9}
    assert stop_ids(ignoring, [1, 2]) == {9}


def test_bad_words_given_as_texts_are_forbidden() -> None:
    (rule,) = request_rules(SamplingParams(), context(bad_words_ids=[(9,), (5, 10)]))
    got = rule.apply(History(torch.tensor([PROMPT]), 4), torch.zeros(1, VOCABULARY))
    assert got.isinf().nonzero()[:, 1].tolist() == [9, 10]


@pytest.mark.parametrize(
    "fields",
    [
        {"stop_token_ids": [60]},
        {"bad_words_ids": [[1, 60]]},
        {"logit_bias": {60: 1.0}},
        {"sequence_bias": [[[60], 1.0]]},
        {"suppress_tokens": [60]},
        {"begin_suppress_tokens": [60]},
        {"forced_bos_token_id": 60},
        {"forced_eos_token_id": [60]},
    ],
)
def test_a_token_that_the_model_does_not_have_is_refused_by_field(fields) -> None:
    with pytest.raises(RequestError, match=f"^{next(iter(fields))} holds the token id 60; the model's ids are 0 to 59"):
        request_rules(SamplingParams(**fields), context())


def test_an_end_token_beyond_the_vocabulary_is_left_alone() -> None:
    rules = request_rules(SamplingParams(min_new_tokens=2), context(end_ids=[1, 99]))
    got = rules[0].apply(History(torch.tensor([PROMPT]), 4), torch.zeros(1, VOCABULARY))
    assert got.isinf().nonzero()[:, 1].tolist() == [1]
