"""The defaults that a checkpoint's `generation_config.json` sets for requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compiler.errors import ConfigError, RequestError
from compiler.ir.frozen import FrozenDict
from compiler.suggest import did_you_mean
from runtime.generation.logits_rules.request import check_token_ids
from runtime.generation.sampling_params import SamplingParams

_FILE = "generation_config.json"

# Keys whose values become those of the field of the same name.
_SAME = (
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "max_time",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "top_h",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "remove_invalid_values",
    "renormalize_logits",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "num_return_sequences",
)
_RENAMED = {"stop_strings": "stop"}
_FIELDS = {**{name: name for name in _SAME}, **_RENAMED}

# Keys that llmc honours elsewhere: the special tokens of an engine's manifest.
_ELSEWHERE = frozenset({"bos_token_id", "eos_token_id", "pad_token_id"})

# Keys that say how transformers computes and what its functions return, and not which tokens come.
_OF_TRANSFORMERS = frozenset(
    {
        "_commit_hash",
        "_from_model_config",
        "cache_config",
        "cache_implementation",
        "compile_config",
        "continuous_batching_config",
        "disable_compile",
        "low_memory",
        "max_cache_len",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "prefill_chunk_size",
        "return_dict_in_generate",
        "return_legacy_cache",
        "transformers_version",
        "use_cache",
    }
)

# Keys that only matter to assisted decoding, which other keys ask for.
_OF_ASSISTED_DECODING = frozenset(
    {
        "assistant_confidence_threshold",
        "assistant_lookbehind",
        "is_assistant",
        "max_matching_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "target_lookbehind",
    }
)

_ASSISTED = "assisted decoding is not applied; it makes generation faster"
_ENCODER = "it is of models with an encoder"
_SEARCHES = "this form of search is not implemented"
# Keys that cannot be honoured: the values with which they do nothing, and why.
_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "assistant_early_exit": ((None,), _ASSISTED),
    "assistant_ensemble_weight": ((None,), _ASSISTED),
    "constraints": ((None,), _SEARCHES),
    "decoder_start_token_id": ((None,), _ENCODER),
    "diversity_penalty": ((None, 0.0), _SEARCHES),
    "dola_layers": ((None,), "decoding by contrasting layers is not implemented"),
    "encoder_no_repeat_ngram_size": ((None, 0), _ENCODER),
    "encoder_repetition_penalty": ((None, 1.0), _ENCODER),
    "force_bos_token_to_be_generated": ((None, False), _ENCODER),
    "force_words_ids": ((None,), _SEARCHES),
    "guidance_scale": ((None, 1.0), "it needs a second, negative prompt"),
    "num_beam_groups": ((None, 1), _SEARCHES),
    "penalty_alpha": ((None, 0.0), "contrastive search is not implemented"),
    "prompt_lookup_num_tokens": ((None,), _ASSISTED),
    "speculation_type": ((None,), _ASSISTED),
    "token_healing": ((None, False), "prompts are taken as they are"),
    "use_mtp": ((None, False), _ASSISTED),
    "watermarking_config": ((None,), "texts are not watermarked"),
}

KNOWN_KEYS = frozenset((*_FIELDS, *_ELSEWHERE, *_OF_TRANSFORMERS, *_OF_ASSISTED_DECODING, *_UNSUPPORTED))
"""Every key that llmc knows, honoured or not."""


@dataclass(frozen=True)
class GenerationDefaults:
    """What a `generation_config.json` says about requests.

    Attributes:
        params: the parameters of a request that gives none.
        notes: a sentence for each key that cannot be honoured.
        stored: the keys of the file that set the parameters, with their values: all that an engine keeps of it.
            They give the same parameters again.
    """

    params: SamplingParams
    notes: tuple[str, ...] = ()
    stored: Mapping[str, Any] = FrozenDict()


def generation_defaults(config: Mapping[str, Any], vocab_size: int | None = None) -> GenerationDefaults:
    """The defaults of requests that a generation config sets.

    As in transformers, tokens are drawn at random by default only if `do_sample` is true; parameters of sampling have
    an effect nevertheless once a request asks for it. A null value is a key that is not there.

    Args:
        config: the content of `generation_config.json`; empty if there is none.
        vocab_size: the model's token ids are below it; None if that is not known.

    Raises:
        ConfigError: naming the key, if a value is none that the key can have, if it holds an id that is not the
            model's, or if keys contradict each other.
    """
    given = {key: value for key, value in config.items() if value is not None}
    notes = [
        f"{_FILE} sets {key!r} to {given[key]!r}, which is not applied: {why}"
        for key, (neutral, why) in _UNSUPPORTED.items()
        if key in given and given[key] not in neutral
    ]
    notes += [
        f"{_FILE} has the key {key!r}, which is unknown and not applied{did_you_mean(key, KNOWN_KEYS)}"
        for key in given
        if key not in KNOWN_KEYS
    ]
    stored = FrozenDict({key: value for key, value in given.items() if key in _FIELDS})
    wishes = {_FIELDS[key]: value for key, value in stored.items()}
    wishes.setdefault("do_sample", False)
    notes += [*_without_contradictions(wishes)]
    try:
        params = SamplingParams(**wishes)
        if vocab_size is not None:
            check_token_ids(params, vocab_size)
    except RequestError as error:
        hint = error.hint or f"mend the key in {_FILE}, or remove it"
        raise ConfigError(f"{_FILE}: {error.message}", hint=hint) from None
    return GenerationDefaults(params, tuple(notes), stored)


def _without_contradictions(wishes: dict[str, Any]) -> list[str]:
    """Resolve what transformers allows to be set together and SamplingParams does not; says what is not applied."""
    notes = []
    beams, texts = wishes.get("num_beams", 1), wishes.get("num_return_sequences", 1)
    if wishes["do_sample"] and beams != 1:
        notes.append(f"{_FILE} asks for a beam search that draws at random; num_beams={beams} is not applied")
        wishes["num_beams"] = beams = 1
    if beams == 1 and texts != 1:
        # Without beams, transformers draws so many texts.
        del wishes["num_return_sequences"]
        if wishes["do_sample"]:
            wishes["n"] = texts
        else:
            notes.append(f"{_FILE} sets num_return_sequences to {texts}, but greedy decoding gives one text")
    for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
        if isinstance(low := wishes.get(least), int) and isinstance(high := wishes.get(most), int) and low > high > 0:
            notes.append(f"{_FILE} sets {least} to {low}, which is more than {most}; {high} is taken for both")
            wishes[least] = high
    return notes
