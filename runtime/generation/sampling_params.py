"""What a request wishes: how its tokens are chosen, when its text ends, and what is reported of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from compiler.errors import RequestError
from compiler.ir.frozen import FrozenDict
from compiler.suggest import did_you_mean
from runtime.generation import sampling_checks as checks
from runtime.generation.sampling_checks import Check

if TYPE_CHECKING:
    from torch import Tensor

LogitsFunction = Callable[[list[int], "Tensor"], "Tensor"]
"""A user's function over logits: called with the token ids of a row, prompt and new tokens, and with the row's logits
`f32[vocabulary]`; returns the logits to go on with, of the same shape."""

DEFAULT_NEW_TOKENS = 64
"""How many new tokens a request gets at most if it says nothing about its length."""

_NO_BIAS: Mapping[int, float] = FrozenDict()


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """The parameters of one request. Every value is checked when it is made.

    Fields are named as in the GenerationConfig of transformers and in vLLM, where these agree. Sequences are kept as
    tuples and mappings as frozen ones, so that parameters can be compared and hashed.

    **Greedy or sampled.** The most likely token is taken (greedy decoding) if `do_sample` is False, if `temperature`
    is 0, or if neither `do_sample` nor any field that shapes a distribution is given (`temperature`, `top_k`, `top_p`,
    `min_p`, `typical_p`, `top_h`, `epsilon_cutoff`, `eta_cutoff`). Otherwise tokens are drawn at random. Nothing cuts
    the distribution unless it is given: transformers' own default of `top_k=50` does not apply.

    Attributes:
        max_new_tokens: how many tokens to add at most; None for what `max_length` leaves, or 64 without either.
        max_length: how many tokens prompt and new tokens may have together; `max_new_tokens` takes precedence.
        min_new_tokens: how many new tokens must come before an end token or a stop id may.
        min_length: how many tokens, with those of the prompt, must come before an end token or a stop id may.
        max_time: after how many seconds the text ends with the token that is in work; None for no limit.
        ignore_eos: whether the model's end tokens are ordinary tokens. Stop ids and stop strings end a text still.
        stop: texts of which the first to occur ends the text, which is cut before it.
        stop_token_ids: more tokens that end a text as the model's end tokens do.
        do_sample: whether to draw at random; None to conclude it from the other fields, as above.
        temperature: by what logits are divided before a draw; None for 1, and 0 for greedy decoding.
        top_k: from how many of the most likely tokens to draw; 0 or -1 for all. Equally likely ones are kept together.
        top_p: the share of probability that the most likely tokens, from which is drawn, have together at least.
        min_p: the share of the most likely token's probability that a token must have.
        typical_p: the share of probability of the tokens whose surprise is nearest to the expected surprise.
        top_h: the share of the distribution's entropy that the most likely tokens may have together; None for all.
        epsilon_cutoff: the probability that a token must have; 0 for any.
        eta_cutoff: the same, lowered where the distribution has much entropy; 0 for any.
        seed: what the draws of the request follow from, and nothing else does; None to draw a seed (see `seeded`).
        n: how many continuations to draw.
        repetition_penalty: by what the logits of tokens in the prompt or the text are divided (multiplied, if
            negative).
        presence_penalty: what is subtracted from the logits of tokens that are in the new text.
        frequency_penalty: what is subtracted from a token's logits for each time that it is in the new text.
        no_repeat_ngram_size: the number of consecutive tokens that may not come twice; 0 to allow it.
        bad_words: texts whose tokens, alone or after a space, must not come. Other tokens could still spell them.
        bad_words_ids: sequences of token ids that must not come.
        logit_bias: what is added to the logits of tokens, by token id.
        sequence_bias: what is added to the logits of a sequence's last token where the others have come.
        suppress_tokens: ids that never come.
        begin_suppress_tokens: ids that do not come first.
        forced_bos_token_id: the token that follows a prompt of one token.
        forced_eos_token_id: ids one of which is the last token that `max_new_tokens` or `max_length` allows.
        exponential_decay_length_penalty: `(start, factor)`: end tokens become more likely by the factor for each new
            token after the first `start`.
        remove_invalid_values: whether logits that are not finite become finite, instead of being an error.
        renormalize_logits: whether the logits are made log-probabilities after all other rules. This matters to the
            scores of a beam search alone.
        logprobs: for how many of the most likely tokens to report log-probabilities with each new token, besides its
            own; 0 for its own alone; None for no report.
        prompt_logprobs: the same for the tokens of the prompt.
        num_beams: how many sequences a beam search follows; 1 for none.
        length_penalty: the power of a sequence's length by which a beam search divides its score: above 0, longer
            texts are preferred.
        early_stopping: whether a beam search ends as soon as it has `num_beams` texts that ended (True); when better
            ones are unlikely (False); or when there can be none ("never").
        num_return_sequences: how many texts a beam search returns.
        logits_processors: functions of your own over logits, called in this order; see `LogitsFunction`.

    Raises:
        RequestError: naming the field, its value and the mend, if a value is of the wrong type or out of range, or if
            fields contradict each other.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int = 0
    min_length: int = 0
    max_time: float | None = None
    ignore_eos: bool = False
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_h: float | None = None
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    seed: int | None = None
    n: int = 1

    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words: Sequence[str] = ()
    bad_words_ids: Sequence[Sequence[int]] = ()
    logit_bias: Mapping[int, float] = _NO_BIAS
    sequence_bias: Sequence[tuple[Sequence[int], float]] = ()
    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: Sequence[int] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False

    logprobs: int | None = None
    prompt_logprobs: int | None = None

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1

    logits_processors: Sequence[LogitsFunction] = ()

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        for problem in (_beams_contradict, _samples_contradict, _lengths_contradict):
            problem(self)

    @cached_property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, rather than one drawn."""
        if self.do_sample is False or self.temperature == 0:
            return True
        return self.do_sample is None and not self._shaped()

    def new_tokens_at_most(self, prompt_tokens: int) -> int:
        """How many tokens the request may add to a prompt of so many tokens; below 1 if `max_length` leaves none."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return DEFAULT_NEW_TOKENS if self.max_length is None else self.max_length - prompt_tokens

    def new_tokens_at_least(self, prompt_tokens: int) -> int:
        """How many tokens must be added to a prompt of so many tokens before an end token may come."""
        return max(self.min_new_tokens, self.min_length - prompt_tokens, 0)

    def seeded(self) -> SamplingParams:
        """The same parameters with a seed: if there is none, one drawn from the system's entropy."""
        # 53 bits: every program that reads JSON keeps such a number exactly.
        return self if self.seed is not None else replace(self, seed=secrets.randbits(53))

    def changed(self, **changes: Any) -> SamplingParams:
        """The same parameters but for some fields, as a caller changes defaults.

        What is asked for here wins over what stood before, unless `do_sample` is given as well:
        `changed(temperature=0.7)` of parameters with `do_sample=False` draws at random, and `changed(num_beams=4)` of
        parameters with `do_sample=True` searches. `changed(max_new_tokens=8)` takes the place of a `max_length`.

        Raises:
            RequestError: as of the class, and if there is no such field.
        """
        _check_names(changes)
        shaping = SamplingParams(**{name: changes[name] for name in _NEUTRAL.keys() & changes.keys()})
        if changes.get("max_new_tokens") is not None:
            changes.setdefault("max_length", None)
        if "do_sample" not in changes:
            if self.do_sample is False and not shaping.greedy:
                changes["do_sample"] = None
            elif changes.get("num_beams", 1) != 1 and shaping.greedy:
                changes["do_sample"] = False
        return replace(self, **changes)

    @property
    def notes(self) -> list[str]:
        """Sentences about fields that are given and have no effect."""
        idle = self._shaped() if self.greedy else []
        why = "do_sample is False" if self.do_sample is False else "temperature is 0"
        said = [f"{name}={getattr(self, name)} has no effect, because {why}" for name in idle]
        if self.greedy and self.seed is not None:
            said.append(f"seed={self.seed} has no effect on greedy decoding: give temperature=1.0 to draw at random")
        if self.max_new_tokens is not None and self.max_length is not None:
            said.append(f"max_length={self.max_length} has no effect, because max_new_tokens is {self.max_new_tokens}")
        if self.num_beams == 1:
            beams_only = {"length_penalty": 1.0, "early_stopping": False}
            said += [
                f"{name}={getattr(self, name)!r} has no effect without a beam search (num_beams)"
                for name, neutral in beams_only.items()
                if getattr(self, name) != neutral
            ]
        return said

    @classmethod
    def from_json(cls, values: Mapping[str, Any], defaults: SamplingParams | None = None) -> SamplingParams:
        """The parameters that a JSON object spells, with the names of the fields as keys.

        Args:
            values: the object.
            defaults: what holds for fields that are not given; see `changed`. None for the fields' own defaults.

        Raises:
            RequestError: as of the class, and if a key is no field, or `logits_processors`, which are functions.
        """
        if not isinstance(values, Mapping):
            raise RequestError(f"sampling parameters are {values!r}; they must be a JSON object")
        if "logits_processors" in values:
            raise RequestError("logits_processors cannot be given in JSON: they are Python functions")
        return cls.from_mapping(values, defaults)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], defaults: SamplingParams | None = None) -> SamplingParams:
        """The parameters that a mapping from names to values gives; see `from_json`. It may hold functions, too."""
        _check_names(values)
        return (defaults or _DEFAULTS).changed(**values)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as a JSON object that `from_json` reads back.

        Raises:
            RequestError: if there are functions over logits, which JSON cannot hold.
        """
        if self.logits_processors:
            raise RequestError("logits_processors cannot be written as JSON: they are Python functions")
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _json(value) for name, value in given.items() if value != getattr(_DEFAULTS, name)}

    def _shaped(self) -> list[str]:
        """The fields given that shape the distribution from which is drawn."""
        return [name for name, neutral in _NEUTRAL.items() if getattr(self, name) not in neutral]


_NEUTRAL: dict[str, tuple[object, ...]] = {
    "temperature": (None, 0.0),
    "top_k": (0,),
    "top_p": (1.0,),
    "min_p": (0.0,),
    "typical_p": (1.0,),
    "top_h": (None,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
}
"""The fields that shape a distribution, and the values with which they do nothing."""


def _top_k(field: str, value: Any) -> int:
    return max(0, int(checks.whole(-1, hint="0 keeps all tokens")(field, value)))


_SHARE = checks.real(0, 1)
_CHECKS: dict[str, Check] = {
    "max_new_tokens": checks.optional(checks.whole(1)),
    "max_length": checks.optional(checks.whole(1)),
    "min_new_tokens": checks.whole(0),
    "min_length": checks.whole(0),
    "max_time": checks.optional(checks.real(above=0)),
    "ignore_eos": checks.flag,
    "stop": checks.texts,
    "stop_token_ids": checks.token_ids,
    "do_sample": checks.optional(checks.flag),
    "temperature": checks.optional(checks.real(0, hint="0 is greedy decoding")),
    "top_k": _top_k,
    "top_p": checks.real(0, 1, hint="1 keeps all tokens"),
    "min_p": _SHARE,
    "typical_p": checks.real(above=0, at_most=1, hint="1 keeps all tokens"),
    "top_h": checks.optional(checks.real(above=0, at_most=1, hint="None keeps all tokens")),
    "epsilon_cutoff": checks.real(0, below=1),
    "eta_cutoff": checks.real(0, below=1),
    "seed": checks.optional(checks.whole(0, 2**64 - 1)),
    "n": checks.whole(1),
    "repetition_penalty": checks.real(above=0, hint="1 is no penalty"),
    "presence_penalty": checks.real(-2, 2, hint="0 is no penalty"),
    "frequency_penalty": checks.real(-2, 2, hint="0 is no penalty"),
    "no_repeat_ngram_size": checks.whole(0),
    "bad_words": checks.texts,
    "bad_words_ids": checks.token_sequences,
    "logit_bias": checks.token_biases,
    "sequence_bias": checks.sequence_biases,
    "suppress_tokens": checks.token_ids,
    "begin_suppress_tokens": checks.token_ids,
    "forced_bos_token_id": checks.optional(checks.whole(0)),
    "forced_eos_token_id": checks.token_ids,
    "exponential_decay_length_penalty": checks.optional(checks.exponential_decay),
    "remove_invalid_values": checks.flag,
    "renormalize_logits": checks.flag,
    "logprobs": checks.optional(checks.whole(0)),
    "prompt_logprobs": checks.optional(checks.whole(0)),
    "num_beams": checks.whole(1),
    "length_penalty": checks.real(-10, 10, hint="0 leaves scores as they are"),
    "early_stopping": checks.early_stopping,
    "num_return_sequences": checks.whole(1),
    "logits_processors": checks.functions,
}
"""The check of every field."""

_OTHER_NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "best_of": "n",
    "beam_width": "num_beams",
    "top_logprobs": "logprobs",
    "random_seed": "seed",
    "logits_processor": "logits_processors",
}
"""What other programs call a field."""


def _check_names(given: Iterable[str]) -> None:
    for name in given:
        if name not in _CHECKS:
            other = _OTHER_NAMES.get(name)
            near = f"; did you mean {other!r}?" if other else did_you_mean(str(name), _CHECKS)
            raise RequestError(
                f"there is no sampling parameter {name!r}{near}",
                hint=None if near else f"the parameters are {', '.join(_CHECKS)}",
            )


def check_field(field: str, value: Any, name: str | None = None) -> Any:
    """The value of a field of `SamplingParams` in the form in which it is kept.

    Args:
        field: the field.
        value: its value.
        name: what messages call the field, such as the option of a command line.

    Raises:
        RequestError: if there is no such field, or if it cannot have the value.
    """
    _check_names([field])
    return _CHECKS[field](name or field, value)


def _beams_contradict(params: SamplingParams) -> None:
    beams, wanted = params.num_beams, params.num_return_sequences
    if wanted > beams:
        more = f"num_beams={wanted} follows as many sequences" if beams > 1 else f"n={wanted} draws as many texts"
        raise RequestError(f"num_return_sequences is {wanted}, but num_beams is {beams}", hint=more)
    if beams == 1:
        return
    if params.n > 1:
        raise RequestError(
            f"n={params.n} and num_beams={beams} contradict each other: n is of texts drawn at random",
            hint=f"num_return_sequences={min(params.n, beams)} returns several texts of a beam search",
        )
    if not params.greedy:
        named = ", ".join(f"{name}={getattr(params, name)}" for name in params._shaped()) or "do_sample=True"
        raise RequestError(
            f"num_beams={beams} and {named} contradict each other: a beam search does not draw at random",
            hint="give num_beams=1 to draw, or do_sample=False (temperature=0) to search",
        )
    if params.logprobs is not None:
        raise RequestError(
            f"logprobs={params.logprobs} and num_beams={beams} contradict each other: a beam search reports the score "
            "of each text",
            hint="leave logprobs out",
        )


def _samples_contradict(params: SamplingParams) -> None:
    if params.n > 1 and params.greedy:
        raise RequestError(
            f"n is {params.n}, but greedy decoding gives the same text every time",
            hint="give temperature=1.0 to draw at random, or num_beams and num_return_sequences for a beam search",
        )


def _lengths_contradict(params: SamplingParams) -> None:
    for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
        low, high = getattr(params, least), getattr(params, most)
        if high is not None and low > high:
            raise RequestError(f"{least} is {low}, which is more than {most}, {high}", hint=f"raise {most}")


def _json(value: Any) -> Any:
    if isinstance(value, FrozenDict):
        return {str(key): one for key, one in value.items()}
    return [_json(one) for one in value] if isinstance(value, tuple) else value


_DEFAULTS = SamplingParams()
