"""The parameters of a request: what they mean, and what they refuse."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from compiler.errors import RequestError
from runtime.generation import sampling_params
from runtime.generation.sampling_params import SamplingParams


def identity(token_ids, logits):
    return logits


def test_every_field_is_checked() -> None:
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    assert set(sampling_params._CHECKS) == names


@pytest.mark.parametrize(
    ("fields", "greedy"),
    [
        ({}, True),
        ({"temperature": 0}, True),
        ({"temperature": 0.0, "do_sample": True}, True),
        ({"temperature": 0.7, "do_sample": False}, True),
        ({"top_k": 0, "top_p": 1.0, "seed": 3}, True),
        ({"temperature": 1.0}, False),
        ({"do_sample": True}, False),
        ({"top_p": 0.9}, False),
        ({"top_k": 5}, False),
        ({"min_p": 0.1}, False),
        ({"typical_p": 0.9}, False),
        ({"top_h": 0.4}, False),
        ({"epsilon_cutoff": 3e-4}, False),
        ({"eta_cutoff": 3e-4}, False),
    ],
)
def test_a_request_is_greedy_unless_it_shapes_a_distribution(fields, greedy) -> None:
    assert SamplingParams(**fields).greedy is greedy


REFUSED = [
    ("max_new_tokens", 0, "at least 1"),
    ("max_new_tokens", True, "an integer"),
    ("max_new_tokens", 2.0, "an integer"),
    ("max_time", 0, "above 0"),
    ("ignore_eos", 1, "True or False"),
    ("stop", "", "an empty text"),
    ("stop", ["a", ""], "an empty text"),
    ("stop", [1], "a text or a list of texts"),
    ("stop", {"a": 1}, "a text or a list of texts"),
    ("stop_token_ids", [-1], "token id"),
    ("do_sample", "yes", "True or False"),
    ("temperature", -0.5, "at least 0"),
    ("temperature", math.nan, "finite"),
    ("temperature", math.inf, "finite"),
    ("temperature", "hot", "finite number"),
    ("temperature", 10**400, "finite"),
    pytest.param("temperature", 10**5000, "finite", id="temperature-digits"),
    ("top_k", -2, "at least -1"),
    ("top_p", 1.5, "at least 0 and at most 1"),
    ("min_p", -0.1, "at least 0 and at most 1"),
    ("typical_p", 0, "above 0 and at most 1"),
    ("top_h", 0, "above 0"),
    ("epsilon_cutoff", 1, "below 1"),
    ("eta_cutoff", -1, "at least 0"),
    ("seed", -1, "from 0"),
    ("seed", 2**64, "from 0"),
    ("n", 0, "at least 1"),
    ("repetition_penalty", 0, "above 0"),
    ("presence_penalty", 2.5, "at most 2"),
    ("frequency_penalty", -3, "at least -2"),
    ("no_repeat_ngram_size", -1, "at least 0"),
    ("bad_words", [""], "an empty text"),
    ("bad_words_ids", [[]], "none of them empty"),
    ("bad_words_ids", [1, 2], "lists of token ids"),
    ("logit_bias", [1], "a mapping"),
    ("logit_bias", {"x": 1.0}, "token ids"),
    pytest.param("logit_bias", {"9" * 5000: 1.0}, "token ids", id="logit_bias-digits"),
    ("logit_bias", {3: math.nan}, "finite"),
    ("logit_bias", {3: 10**400}, "finite"),
    ("sequence_bias", [[[1, 2]]], "pairs"),
    ("sequence_bias", [[[], 1.0]], "pairs"),
    ("suppress_tokens", ["a"], "token id"),
    ("forced_bos_token_id", -1, "at least 0"),
    ("exponential_decay_length_penalty", [3], "a pair"),
    ("exponential_decay_length_penalty", [3, 0], "above 0"),
    ("logprobs", -1, "at least 0"),
    ("prompt_logprobs", 1.5, "an integer"),
    ("num_beams", 0, "at least 1"),
    ("length_penalty", math.nan, "finite"),
    ("early_stopping", "always", 'True, False or "never"'),
    ("early_stopping", None, 'True, False or "never"'),
    ("logits_processors", [3], "functions"),
    ("logits_processors", identity, "functions"),
]


@pytest.mark.parametrize(("name", "value", "wanted"), REFUSED)
def test_a_value_that_a_field_cannot_have_is_refused_by_name(name, value, wanted) -> None:
    with pytest.raises(RequestError) as raised:
        SamplingParams(**{name: value})
    assert raised.value.message.startswith(name)
    assert wanted in raised.value.message


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"n": 2}, "n is 2"),
        ({"n": 2, "temperature": 0}, "n is 2"),
        ({"num_beams": 2, "temperature": 0.5}, "num_beams=2 and temperature=0.5"),
        ({"num_beams": 2, "do_sample": True}, "num_beams=2 and do_sample=True"),
        ({"num_beams": 2, "n": 2}, "n=2 and num_beams=2"),
        ({"num_beams": 2, "logprobs": 1}, "logprobs=1 and num_beams=2"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens is 5"),
        ({"min_length": 5, "max_length": 4}, "min_length is 5"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, named) -> None:
    with pytest.raises(RequestError) as raised:
        SamplingParams(**fields)
    assert raised.value.message.startswith(named)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("name", "meant"), [("max_tokens", "max_new_tokens"), ("temprature", "temperature"), ("stop_strings", "stop")]
)
def test_an_unknown_field_gets_a_suggestion(name, meant) -> None:
    with pytest.raises(RequestError, match=f"no sampling parameter '{name}'; did you mean '{meant}'"):
        SamplingParams.from_json({name: 1})
    with pytest.raises(RequestError, match=f"did you mean '{meant}'"):
        SamplingParams().changed(**{name: 1})


def test_values_are_kept_in_one_form() -> None:
    loose: dict[str, Any] = {
        "seed": np.int64(3), "logit_bias": {"7": 1}, "sequence_bias": {(1, 2): 3}, "forced_eos_token_id": 5,
    }  # fmt: skip
    params = SamplingParams(
        stop="end",
        stop_token_ids=[3, 3, 4],
        top_k=-1,
        temperature=1,
        **loose,
    )
    assert params.stop == ("end",)
    assert type(params.seed) is int
    assert params.stop_token_ids == (3, 4)
    assert params.top_k == 0
    assert isinstance(params.temperature, float)
    assert params.logit_bias == {7: 1.0}
    assert params.sequence_bias == (((1, 2), 3.0),)
    assert params.forced_eos_token_id == (5,)
    assert hash(params) == hash(params.changed())


def test_json_reads_back_and_holds_what_differs_from_defaults() -> None:
    params = SamplingParams(
        temperature=0.5,
        stop=["a", "b"],
        logit_bias={3: -1.5},
        sequence_bias=[([1, 2], 0.5)],
        bad_words_ids=[[1], [2, 3]],
        exponential_decay_length_penalty=(4, 1.5),
        seed=2**64 - 1,
        logprobs=0,
    )
    text = json.dumps(params.to_json())
    assert SamplingParams.from_json(json.loads(text)) == params
    assert SamplingParams().to_json() == {}
    assert set(params.to_json()) == {
        "temperature", "stop", "logit_bias", "sequence_bias", "bad_words_ids", "exponential_decay_length_penalty",
        "seed", "logprobs",
    }  # fmt: skip


def test_functions_are_not_json() -> None:
    with pytest.raises(RequestError, match="logits_processors"):
        SamplingParams(logits_processors=[identity]).to_json()
    with pytest.raises(RequestError, match="logits_processors"):
        SamplingParams.from_json({"logits_processors": []})
    with pytest.raises(RequestError, match="JSON object"):
        SamplingParams.from_json([])  # type: ignore[arg-type]


def test_what_is_asked_for_wins_over_defaults() -> None:
    searching = SamplingParams(do_sample=False, top_p=0.9)
    assert searching.greedy
    assert not searching.changed(temperature=0.7).greedy
    assert not searching.changed(n=3, temperature=0.7).greedy
    assert searching.changed(temperature=0).greedy
    assert searching.changed(temperature=0.7, do_sample=False).greedy
    drawing = SamplingParams(do_sample=True, temperature=0.6)
    assert not drawing.changed(max_new_tokens=3).greedy
    assert drawing.changed(temperature=0).greedy
    assert drawing.changed(num_beams=4).greedy
    with pytest.raises(RequestError, match="contradict"):
        drawing.changed(num_beams=4, temperature=0.5)


def test_json_can_change_defaults() -> None:
    defaults = SamplingParams(do_sample=False, repetition_penalty=1.2)
    params = SamplingParams.from_json({"temperature": 0.5}, defaults)
    assert params == SamplingParams(temperature=0.5, repetition_penalty=1.2)
    assert SamplingParams.from_json({"repetition_penalty": 1.0}, defaults) == SamplingParams(do_sample=False)


def test_lengths_follow_from_the_prompt_where_they_count_it() -> None:
    assert SamplingParams().new_tokens_at_most(10) == 64
    assert SamplingParams(max_length=16).new_tokens_at_most(10) == 6
    assert SamplingParams(max_length=16, max_new_tokens=9).new_tokens_at_most(10) == 9
    assert SamplingParams(min_length=16, min_new_tokens=4).new_tokens_at_least(10) == 6
    assert SamplingParams(min_length=16, min_new_tokens=4).new_tokens_at_least(20) == 4


def test_a_seed_is_drawn_where_there_is_none_and_reported() -> None:
    params = SamplingParams(temperature=1.0)
    first, second = params.seeded(), params.seeded()
    assert first.seed is not None and second.seed is not None
    assert first.seed != second.seed  # they are of 53 random bits
    assert first.seeded() is first


def test_what_has_no_effect_is_said() -> None:
    assert SamplingParams().notes == []
    assert SamplingParams(temperature=0.5, seed=1).notes == []
    said = SamplingParams(temperature=0.0, top_p=0.5, seed=1, length_penalty=2.0).notes
    assert [note.split("=")[0] for note in said] == ["top_p", "seed", "length_penalty"]
    assert "do_sample is False" in SamplingParams(do_sample=False, temperature=0.5).notes[0]
    both = SamplingParams(max_length=20, max_new_tokens=8)
    assert both.notes == ["max_length=20 has no effect, because max_new_tokens is 8"]
    assert SamplingParams(max_length=20).changed(max_new_tokens=8) == SamplingParams(max_new_tokens=8)
