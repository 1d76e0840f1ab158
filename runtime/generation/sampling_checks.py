"""Checks of the fields of `SamplingParams`: each turns a given value into the stored one, or says what is wrong.

A check is a function of a field's name and a value. It returns the value in the form in which it is kept (a list
becomes a tuple, an integer a float where a float is wanted), and raises RequestError, naming the field, the value and
what the field takes.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from compiler.errors import RequestError
from compiler.ir.frozen import FrozenDict

Check = Callable[[str, Any], Any]

_SHOWN = 200
"""How many characters of a value messages show."""


def refused(field: str, value: object, wanted: str, hint: str | None = None) -> RequestError:
    """The error that says that a field has a value that it cannot have, and what it takes."""
    return RequestError(f"{field} is {_spelt(value)}; it must be {wanted}", hint=hint)


def whole(at_least: int | None = None, at_most: int | None = None, *, hint: str | None = None) -> Check:
    """A check for an integer within a range; integers of numpy count as such, booleans do not."""
    wanted = "an integer" if at_least is None else f"an integer of at least {at_least}"
    wanted = wanted if at_most is None else f"an integer from {at_least} to {at_most}"
    least, most = -math.inf if at_least is None else at_least, math.inf if at_most is None else at_most

    def check(field: str, value: Any) -> int:
        number = _integer(value)
        if number is None or not least <= number <= most:
            raise refused(field, value, wanted, hint)
        return number

    return check


def real(
    at_least: float | None = None,
    at_most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    hint: str | None = None,
) -> Check:
    """A check for a finite number within a range, the ends of which belong to it (`at_…`) or do not."""
    limits = {
        "at least": (at_least, operator.ge),
        "above": (above, operator.gt),
        "at most": (at_most, operator.le),
        "below": (below, operator.lt),
    }
    bounds = [(words, limit, within) for words, (limit, within) in limits.items() if limit is not None]
    wanted = " ".join(["a finite number", " and ".join(f"{words} {limit:g}" for words, limit, _ in bounds)]).rstrip()

    def check(field: str, value: Any) -> float:
        number = _number(value)
        if not math.isfinite(number) or not all(within(number, limit) for _, limit, within in bounds):
            raise refused(field, value, wanted, hint)
        return number

    return check


def flag(field: str, value: Any) -> bool:
    """Check that a value is True or False."""
    if not isinstance(value, bool):
        raise refused(field, value, "True or False")
    return value


def optional(check: Check) -> Check:
    """A check that lets None pass, and gives all else to another check."""
    return lambda field, value: None if value is None else check(field, value)


def texts(field: str, value: Any) -> tuple[str, ...]:
    """Check that a value is a text or a list of texts, none of them empty; gives a tuple without repetitions."""
    given = _listed(field, [value] if isinstance(value, str) else value, "a text or a list of texts")
    for text in given:
        if not isinstance(text, str):
            raise refused(field, value, "a text or a list of texts")
        if not text:
            raise RequestError(f"{field} holds an empty text, which occurs everywhere", hint="leave it out")
    return tuple(dict.fromkeys(given))


def token_ids(field: str, value: Any) -> tuple[int, ...]:
    """Check that a value is a token id or a list of token ids; gives a tuple without repetitions."""
    return tuple(dict.fromkeys(_ids(field, value, "a token id or a list of token ids", single=True)))


def token_sequences(field: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """Check that a value is a list of lists of token ids, none of them empty; gives tuples without repetitions."""
    wanted = "a list of lists of token ids, none of them empty"
    given = _listed(field, value, wanted)
    if not all(isinstance(sequence, Iterable) for sequence in given):
        raise refused(field, value, wanted)
    sequences = tuple(dict.fromkeys(tuple(_ids(field, sequence, wanted)) for sequence in given))
    if () in sequences:
        raise refused(field, value, wanted)
    return sequences


def token_biases(field: str, value: Any) -> FrozenDict[int, float]:
    """Check that a value maps token ids, which JSON writes as texts, to finite numbers."""
    wanted = "a mapping from token ids to finite numbers"
    if not isinstance(value, Mapping):
        raise refused(field, value, wanted, 'such as {"50256": -5.0}')
    biases: dict[int, float] = {}
    for key, bias in value.items():
        token = _token(key)
        if token is None or token < 0:
            raise RequestError(f"{field} has the key {key!r:.80}; its keys must be token ids")
        biases[token] = _bias(f"{field}[{token}]", bias)
    return FrozenDict(biases)


def sequence_biases(field: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Check that a value gives numbers to sequences of token ids: by a mapping from tuples, or by a list of pairs."""
    wanted = "a list of pairs of token ids and a number, such as [[[5, 6], -2.0]]"
    pairs = value.items() if isinstance(value, Mapping) else _listed(field, value, wanted)
    biases: dict[tuple[int, ...], float] = {}
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise refused(field, value, wanted)
        sequence = tuple(_ids(field, pair[0], wanted))
        if not sequence:
            raise refused(field, value, wanted)
        biases[sequence] = _bias(f"{field}[{list(sequence)}]", pair[1])
    return tuple(biases.items())


def exponential_decay(field: str, value: Any) -> tuple[int, float]:
    """Check that a value is a pair: after how many new tokens the penalty begins, and its factor for each token."""
    wanted = "a pair of the number of new tokens after which it begins and a positive factor, such as [100, 1.05]"
    pair = _listed(field, value, wanted)
    if len(pair) != 2:
        raise refused(field, value, wanted)
    return whole(0)(f"{field}[0]", pair[0]), real(above=0)(f"{field}[1]", pair[1])


def early_stopping(field: str, value: Any) -> bool | str:
    """Check that a value is True, False or "never"."""
    if not isinstance(value, bool) and value != "never":
        raise refused(field, value, 'True, False or "never"')
    return bool(value) if isinstance(value, bool) else "never"


def functions(field: str, value: Any) -> tuple[Callable[..., Any], ...]:
    """Check that a value is a list of functions."""
    given = _listed(field, value, "a list of functions")
    if not all(callable(function) for function in given):
        raise refused(field, value, "a list of functions", "each is called with the token ids and the logits of a row")
    return tuple(given)


def _spelt(value: object) -> str:
    """A value as messages show it: cut, if it is long; its type, if it has more digits than Python writes."""
    try:
        text = repr(value)
    except ValueError:
        return f"a very large {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _number(value: Any) -> float:
    """A real number as a float; NaN if it is none, or so large that no float is."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _token(key: Any) -> int | None:
    """The token id that is a key of a mapping, which JSON writes as a text; None if it is none."""
    try:
        return int(key) if isinstance(key, str) and key.isdecimal() else _integer(key)
    except ValueError:  # so many digits that Python does not read them
        return None


_bias = real(hint="suppress_tokens and bad_words_ids forbid tokens")


def _listed(field: str, value: Any, wanted: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise refused(field, value, wanted)
    return list(value)


def _ids(field: str, value: Any, wanted: str, *, single: bool = False) -> list[int]:
    alone = _integer(value) if single else None
    given = [alone] if alone is not None else [_integer(one) for one in _listed(field, value, wanted)]
    ids = [one for one in given if one is not None and one >= 0]
    if len(ids) < len(given):
        raise refused(field, value, wanted, "token ids are integers from 0")
    return ids
