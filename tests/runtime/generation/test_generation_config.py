"""The defaults in a generation_config.json."""

import json
from typing import Any

import pytest
import transformers

from compiler.errors import ConfigError
from runtime.generation.generation_config import KNOWN_KEYS, generation_defaults
from runtime.generation.sampling_params import SamplingParams
from tests.paths import MODELS


def test_every_key_of_transformers_is_known() -> None:
    assert set(vars(transformers.GenerationConfig())) - KNOWN_KEYS == set()


def test_a_config_as_large_models_have_it_sets_the_defaults() -> None:
    config = {
        "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0, "do_sample": True, "temperature": 0.6,
        "top_p": 0.9, "max_length": 4096, "transformers_version": "4.42.3", "repetition_penalty": 1.05,
    }  # fmt: skip
    defaults = generation_defaults(config)
    assert defaults.notes == ()
    assert defaults.params == SamplingParams(
        do_sample=True, temperature=0.6, top_p=0.9, max_length=4096, repetition_penalty=1.05
    )


def test_no_config_is_greedy() -> None:
    assert generation_defaults({}).params.greedy
    assert generation_defaults({"temperature": 0.6, "top_k": None}).params == SamplingParams(
        do_sample=False, temperature=0.6
    )


@pytest.mark.parametrize(
    ("key", "value", "field", "stored"),
    [
        ("stop_strings", ["a", "b"], "stop", ("a", "b")),
        ("min_length", 4, "min_length", 4),
        ("bad_words_ids", [[1, 2]], "bad_words_ids", ((1, 2),)),
        ("sequence_bias", [[[1, 2], -2.0]], "sequence_bias", (((1, 2), -2.0),)),
        ("suppress_tokens", [5], "suppress_tokens", (5,)),
        ("begin_suppress_tokens", [5], "begin_suppress_tokens", (5,)),
        ("forced_bos_token_id", 5, "forced_bos_token_id", 5),
        ("forced_eos_token_id", [5, 6], "forced_eos_token_id", (5, 6)),
        ("exponential_decay_length_penalty", [9, 1.5], "exponential_decay_length_penalty", (9, 1.5)),
        ("early_stopping", "never", "early_stopping", "never"),
        ("num_beams", 4, "num_beams", 4),
        ("max_time", 2.5, "max_time", 2.5),
        ("renormalize_logits", True, "renormalize_logits", True),
        ("epsilon_cutoff", 3e-4, "epsilon_cutoff", 3e-4),
    ],
)
def test_a_key_becomes_a_field(key, value, field, stored) -> None:
    defaults = generation_defaults({key: value})
    assert getattr(defaults.params, field) == stored
    assert defaults.notes == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("guidance_scale", 1.5),
        ("encoder_repetition_penalty", 1.2),
        ("num_beam_groups", 2),
        ("penalty_alpha", 0.6),
        ("prompt_lookup_num_tokens", 3),
        ("watermarking_config", {"bias": 2.0}),
        ("token_healing", True),
        ("tempreature", 0.5),
    ],
)
def test_a_key_that_cannot_be_honoured_is_noted(key, value) -> None:
    defaults = generation_defaults({key: value})
    assert defaults.params == SamplingParams(do_sample=False)
    (note,) = defaults.notes
    assert repr(key) in note
    assert "not applied" in note


def test_neutral_values_and_what_only_concerns_transformers_are_not_noted() -> None:
    config = transformers.GenerationConfig(**transformers.GenerationConfig._get_default_generation_params()).to_dict()
    assert config["num_beam_groups"] == 1
    assert generation_defaults(config).notes == ()


def test_the_bundled_checkpoints_set_nothing() -> None:
    for path in sorted(MODELS.glob("*/generation_config.json")):
        defaults = generation_defaults(json.loads(path.read_text(encoding="utf-8")))
        assert defaults.params == SamplingParams(do_sample=False)
        assert defaults.notes == ()


def test_several_texts_are_samples_or_beams() -> None:
    assert generation_defaults({"do_sample": True, "num_return_sequences": 3}).params.n == 3
    assert generation_defaults({"num_beams": 4, "num_return_sequences": 3}).params.num_return_sequences == 3
    greedy = generation_defaults({"num_return_sequences": 3})
    assert (greedy.params.n, greedy.params.num_return_sequences) == (1, 1)
    assert "num_return_sequences" in greedy.notes[0]


def test_a_beam_search_that_draws_is_noted() -> None:
    defaults = generation_defaults({"do_sample": True, "num_beams": 4})
    assert defaults.params.num_beams == 1
    assert "num_beams=4 is not applied" in defaults.notes[0]


def test_a_wrong_value_names_file_and_key() -> None:
    with pytest.raises(ConfigError, match=r"generation_config.json: temperature is 'hot'"):
        generation_defaults({"temperature": "hot"})


def test_what_is_stored_gives_the_same_defaults_again() -> None:
    config = {
        "eos_token_id": 2, "use_cache": True, "top_k": None, "penalty_alpha": 0.6, "mistaken": 1, "do_sample": True,
        "num_beams": 4, "num_return_sequences": 2, "stop_strings": "END", "sequence_bias": [[[1, 2], -2.0]],
    }  # fmt: skip
    defaults = generation_defaults(config)
    assert set(defaults.stored) == {"do_sample", "num_beams", "num_return_sequences", "stop_strings", "sequence_bias"}
    assert defaults.stored == {key: config[key] for key in defaults.stored}
    again = generation_defaults(json.loads(json.dumps(defaults.stored)))
    assert (again.params, again.stored) == (defaults.params, defaults.stored)


def test_a_wrong_value_comes_with_a_mend() -> None:
    configs: list[dict[str, Any]] = [{"temperature": "hot"}, {"bad_words_ids": [[]]}, {"early_stopping": 3}]
    for config in configs:
        with pytest.raises(ConfigError) as raised:
            generation_defaults(config)
        assert raised.value.hint


def test_an_id_that_the_model_does_not_have_is_refused_where_its_ids_are_known() -> None:
    config = {"suppress_tokens": [5, 97]}
    assert generation_defaults(config).params.suppress_tokens == (5, 97)
    assert generation_defaults(config, vocab_size=98).params.suppress_tokens == (5, 97)
    with pytest.raises(
        ConfigError, match=r"generation_config.json: suppress_tokens holds the token id 97; the model's"
    ):
        generation_defaults(config, vocab_size=97)
