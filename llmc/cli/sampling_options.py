"""Options for the parameters of a request: one for each field of `SamplingParams`, and a file of them."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from compiler.errors import RequestError
from compiler.json_fields import shown
from compiler.text_files import read_text
from runtime.generation.sampling_params import SamplingParams, check_field

_ALIASES = {"num_beams": ("--beams",)}

# The fields by the section of the help that they stand in, and what the help says of each.
_HELP = {
    "Stopping": {
        "max_new_tokens": "How many tokens to add to each prompt at most; 64, if --max-length is not given either.",
        "max_length": "How many tokens prompt and new tokens may have together; --max-new-tokens takes precedence.",
        "min_new_tokens": "How many new tokens must come before an end token may.",
        "min_length": "The same, with the tokens of the prompt counted.",
        "max_time": "After how many seconds a text ends.",
        "ignore_eos": "Go on after an end token of the model's.",
        "stop": "A text that ends the new text, which is cut before it. May be repeated.",
        "stop_token_ids": "More tokens that end a text, such as 1,2.",
    },
    "Sampling": {
        "do_sample": "Draw tokens at random, or take the most likely ones; else as the options below imply.",
        "temperature": "By what logits are divided before a draw; 0 takes the most likely token.",
        "top_k": "Draw from so many of the most likely tokens; 0 for all.",
        "top_p": "Draw from the most likely tokens that have this share of probability together.",
        "min_p": "Draw from tokens that have this share of the most likely token's probability.",
        "typical_p": "Draw from the tokens nearest to the expected surprise that have this share together.",
        "top_h": "Draw from the most likely tokens that have at most this share of the entropy together.",
        "epsilon_cutoff": "Draw from tokens of at least this probability.",
        "eta_cutoff": "The same, less strict where many tokens are likely.",
        "seed": "What the draws follow from; a new one for each request if not given.",
        "n": "How many texts to draw for each prompt.",
    },
    "Penalties": {
        "repetition_penalty": "Makes tokens of the prompt and the text less likely, by this factor; 1 for none.",
        "presence_penalty": "Subtracted from the logits of tokens in the new text, from -2 to 2.",
        "frequency_penalty": "Subtracted for each time that a token is in the new text, from -2 to 2.",
        "no_repeat_ngram_size": "So many consecutive tokens may not come twice; 0 to allow it.",
        "bad_words": "A text whose tokens must not come. May be repeated.",
        "bad_words_ids": "Consecutive token ids that must not come, such as 1,2. May be repeated.",
        "logit_bias": "What is added to the logits of a token, such as 50=-2.5. May be repeated.",
        "sequence_bias": "The same for the last of consecutive tokens, such as 5,6=-2. May be repeated.",
        "suppress_tokens": "Tokens that never come, such as 1,2.",
        "begin_suppress_tokens": "Tokens that do not come first.",
        "forced_bos_token_id": "The token that follows a prompt of one token.",
        "forced_eos_token_id": "Tokens one of which is the last that the length allows.",
        "exponential_decay_length_penalty": "End tokens become likelier by FACTOR a token after START new tokens.",
        "remove_invalid_values": "Make logits finite that are not, instead of failing.",
        "renormalize_logits": "Make logits log-probabilities, for the scores of a beam search.",
    },
    "Beam search": {
        "num_beams": "How many sequences to follow; 1 for no beam search.",
        "length_penalty": "By which power of its length a text's score is divided.",
        "early_stopping": "End with --num-beams ended texts (true), if better ones are unlikely (false) or impossible "
        "(never).",
        "num_return_sequences": "How many texts of a beam search to return.",
    },
    "Reports": {
        "logprobs": "Report log-probabilities of each new token and of so many of the most likely ones.",
        "prompt_logprobs": "The same for the tokens of the prompt.",
    },
}


@dataclass(frozen=True)
class _Form:
    """How an option spells values of a type.

    Attributes:
        annotation: the type that typer reads.
        metavar: what the help shows for a value.
        parse: turns what typer read into the field's value; called with the option's name first.
    """

    annotation: Any
    metavar: str | None = None
    parse: Callable[[str, Any], Any] = lambda option, value: value


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator for commands: gives them the options, and the wishes in them as the argument `sampling`.

    In the place of its parameter `sampling`, the command that typer sees has `--params` and an option for each field.
    """
    signature = inspect.signature(command, eval_str=True)
    own = signature.parameters
    offered = [
        each for parameter in own.values() for each in (_OFFERED if parameter.name == "sampling" else [parameter])
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        values = {name: given.pop(name) for name in OPTIONS}
        sampling = sampling_changes(values, given.pop("params"))
        command(**given, sampling=sampling)

    run.__signature__ = signature.replace(parameters=offered)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in offered}
    return run


def sampling_changes(values: Mapping[str, Any], file: Path | None = None) -> dict[str, Any]:
    """The fields of `SamplingParams` that a command line gives, checked one by one.

    Args:
        values: what the option of each field holds, as typer reads it; None for an option that is not given.
        file: a JSON file of fields; what options give wins over it.

    Raises:
        RequestError: naming the option, or the file and the key, if a value is none that the field can have.
    """
    changes = _read(file) if file is not None else {}
    for name, value in values.items():
        if value is not None:
            option = OPTIONS[name]
            changes[name] = check_field(name, _FORMS[name].parse(option, value), option)
    return changes


def _read(file: Path) -> dict[str, Any]:
    if str(file) == "-":
        raise RequestError(
            "--params does not read standard input", hint="write the parameters into a file, and name it"
        )
    text = read_text(file, RequestError, what="the parameters in").text
    try:
        content = json.loads(text, object_pairs_hook=partial(_each_once, file))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{file} is no JSON: {error}", hint='mend it, such as: {"temperature": 0.7}') from None
    if not isinstance(content, dict):
        raise RequestError(f"{file} holds {shown(content)}, not an object", hint='write {"temperature": 0.7}, say')
    if "logits_processors" in content:
        raise RequestError(f"{file}: logits_processors cannot be given in JSON: they are Python functions")
    try:
        return {name: check_field(name, value) for name, value in content.items()}
    except RequestError as error:
        raise RequestError(f"{file}: {error.message}", hint=error.hint) from None


def _each_once(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; RequestError if it has a key twice, of which one would be dropped."""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"{file} gives {twice!r} twice", hint="give it once")
    return dict(pairs)


def _ids(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"{option} {text!r} is no list of token ids", hint=f"write {option} 1,2") from None


def _id_lists(option: str, texts: list[str]) -> list[list[int]]:
    return [_ids(option, text) for text in texts]


def _biases(option: str, texts: list[str]) -> dict[tuple[int, ...], float]:
    """Numbers for sequences of token ids, such as `5,6=-2`."""
    biases: dict[tuple[int, ...], float] = {}
    for text in texts:
        ids, _, number = text.partition("=")
        try:
            sequence, bias = tuple(map(int, ids.split(","))), float(number)
        except ValueError:
            raise RequestError(
                f"{option} {text!r} is not token ids and a number", hint=f"write {option} 50=-2.5"
            ) from None
        if sequence in biases:
            raise RequestError(f"{option} is given twice for {ids}", hint="give it once")
        biases[sequence] = bias
    return biases


def _token_biases(option: str, texts: list[str]) -> dict[int, float]:
    biases = _biases(option, texts)
    for sequence in biases:
        if len(sequence) > 1:
            raise RequestError(
                f"{option} takes a number for one token, not for {','.join(map(str, sequence))}",
                hint="--sequence-bias takes one for consecutive tokens",
            )
    return {sequence[0]: bias for sequence, bias in biases.items()}


def _decay(option: str, text: str) -> tuple[int, float]:
    start, _, factor = text.partition(",")
    try:
        return int(start), float(factor)
    except ValueError:
        raise RequestError(f"{option} {text!r} is not START,FACTOR", hint=f"write {option} 100,1.05") from None


def _early(option: str, text: str) -> Any:
    values = {"true": True, "false": False, "never": "never"}
    if text not in values:
        raise RequestError(f"{option} is {text!r}; it must be true, false or never")
    return values[text]


_NUMBER, _REAL, _FLAG = _Form(int, metavar="N"), _Form(float, metavar="X"), _Form(bool)
# By the type of the field, as its class writes it.
_FORM_OF_TYPE = {
    "int": _NUMBER,
    "int | None": _NUMBER,
    "float": _REAL,
    "float | None": _REAL,
    "bool": _FLAG,
    "bool | None": _FLAG,
    "Sequence[str]": _Form(list[str], "TEXT"),
    "Sequence[int]": _Form(str, "IDS", _ids),
    "Sequence[Sequence[int]]": _Form(list[str], "IDS", _id_lists),
    "Mapping[int, float]": _Form(list[str], "ID=X", _token_biases),
    "Sequence[tuple[Sequence[int], float]]": _Form(list[str], "IDS=X", _biases),
    "tuple[int, float] | None": _Form(str, "START,FACTOR", _decay),
    "bool | Literal['never']": _Form(str, "true|false|never", _early),
}
_FORMS = {
    field.name: _FORM_OF_TYPE[str(field.type)] for field in fields(SamplingParams) if field.name != "logits_processors"
}

OPTIONS = {name: "--" + name.replace("_", "-") for name in _FORMS}
"""The option of each field."""


def _parameter(name: str, section: str, help_text: str) -> inspect.Parameter:
    form, option = _FORMS[name], OPTIONS[name]
    spellings = [f"{option}/--no-{option[2:]}" if form is _FLAG else option, *_ALIASES.get(name, ())]
    info = typer.Option(*spellings, metavar=form.metavar, help=help_text, rich_help_panel=section)
    return _optional(name, form.annotation, info)


def _optional(name: str, annotation: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation | None, info]
    )


_OFFERED = [
    _optional(
        "params",
        Path,
        typer.Option(
            "--params",
            metavar="FILE.json",
            help="Parameters as a JSON object, named as the options below with underscores; options win over it.",
        ),
    ),
    *(_parameter(name, section, text) for section, texts in _HELP.items() for name, text in texts.items()),
]
