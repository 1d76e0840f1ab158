"""What a user says of a checkpoint's weights that no file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import RequestError
from compiler.ir.frozen import EMPTY
from compiler.suggest import did_you_mean


@dataclass(frozen=True)
class WeightsFormat:
    """How weights are stored, such as `gptq:bits=4:group=128`.

    Attributes:
        name: the format, one of `FORMATS`.
        options: its options that are given.
    """

    name: str
    options: Mapping[str, Any] = EMPTY


@dataclass(frozen=True)
class SourceOptions:
    """What a user says of a checkpoint's weights.

    Attributes:
        weights: a file of weights, instead of those in the folder.
        weights_format: how weights are stored.
        scales: a file of scales that weights, inputs and caches are to be quantized with.
    """

    weights: Path | None = None
    weights_format: WeightsFormat | None = None
    scales: Path | None = None


def source_options(
    weights: str | Path | None = None, weights_format: str | None = None, scales: str | Path | None = None
) -> SourceOptions:
    """What is said of weights, from paths and the text of a format; RequestError if it names no format."""
    files = [None if file is None else Path(file).expanduser() for file in (weights, scales)]
    said = None if weights_format is None else parse_weights_format(weights_format)
    return SourceOptions(files[0], said, files[1])


_SWITCH = {"true": True, "false": False}
_GPUS = ("ampere", "hopper", "hopper-plain", "volta")
# Format → option → its values by how they are written; None for integers.
FORMATS: Mapping[str, Mapping[str, Mapping[str, Any] | None]] = {
    "gptq": {
        "bits": None,
        "group": None,
        "sym": _SWITCH,
        "act_order": _SWITCH,
        "zeros": {"v1": "gptq", "v2": "gptq_v2"},
    },
    "awq": {"group": None},
    "tensorrt-llm": {"gpu": {gpu: gpu for gpu in _GPUS}},
}
"""The formats that can be named, with their options."""


def parse_weights_format(text: str) -> WeightsFormat:
    """The format that a text such as `gptq:bits=4:group=128` names; RequestError if it names none."""
    name, *rest = text.split(":")
    if name not in FORMATS:
        raise RequestError(
            f"there is no weights format {name!r}{did_you_mean(name, FORMATS)}",
            hint=f"the formats are: {', '.join(FORMATS)}",
        )
    options: dict[str, Any] = {}
    for word in rest:
        key, sign, value = word.partition("=")
        if not sign or key not in FORMATS[name]:
            raise RequestError(
                f"the weights format {name!r} has no option {word!r}{did_you_mean(key, FORMATS[name])}",
                hint=f"its options are: {', '.join(FORMATS[name])}; written as {_example(name)}",
            )
        options[key] = _value(name, key, value)
    return WeightsFormat(name, options)


def _value(name: str, key: str, text: str) -> Any:
    known = FORMATS[name][key]
    if known is None:
        try:
            return int(text)
        except ValueError:
            raise RequestError(
                f"the option {key!r} of the weights format {name!r} is {text!r}, not an integer"
            ) from None
    if text not in known:
        raise RequestError(
            f"the option {key!r} of the weights format {name!r} is {text!r}{did_you_mean(text, known)}",
            hint=f"it may be: {', '.join(known)}",
        )
    return known[text]


def _example(name: str) -> str:
    return {"gptq": "gptq:bits=4:group=128", "awq": "awq:group=128"}.get(name, "tensorrt-llm:gpu=hopper")
