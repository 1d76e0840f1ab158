"""Functions of the user's over logits."""

import inspect

import pytest
import torch

from compiler.errors import RequestError
from runtime.generation.logits_rules.functions import UserFunction
from runtime.generation.logits_rules.rule import History


def failing(token_ids, logits):
    raise ValueError("no such token")


def shortened(token_ids, logits):
    return logits[:-1]


def of_integers(token_ids, logits):
    return logits.long()


def silent(token_ids, logits):
    logits[0] = 0.0


class Scaled:
    def __call__(self, token_ids, logits):
        return logits * len(token_ids)


class Broken:
    def __call__(self, token_ids, logits):
        return [0.0]


HISTORY = History(torch.tensor([[1, 2, 3], [4, 5, 6]]), 2)
LOGITS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def test_it_gets_the_tokens_and_logits_of_each_row() -> None:
    seen = []

    def doubled(token_ids, logits):
        seen.append((token_ids, logits.tolist()))
        logits.mul_(2)
        return logits.double()

    given = LOGITS.clone()
    got = UserFunction(doubled).apply(HISTORY, given)
    assert seen == [([1, 2, 3], [1.0, 2.0]), ([4, 5, 6], [3.0, 4.0])]
    assert torch.equal(got, LOGITS * 2) and got.dtype == torch.float32
    assert torch.equal(given, LOGITS)
    assert torch.equal(UserFunction(Scaled()).apply(HISTORY, given), LOGITS * 3)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (failing, "raised ValueError in line "),
        (shortened, "returned torch.float32 of shape [1]"),
        (of_integers, "returned torch.int64"),
        (silent, "returned None"),
        (Broken(), "returned something of type list"),
        (lambda token_ids, logits: logits[5], "raised IndexError"),
    ],
)
def test_one_that_fails_is_named_with_its_file_and_line(function, words) -> None:
    with pytest.raises(RequestError) as raised:
        UserFunction(function).apply(HISTORY, LOGITS)
    code = function if inspect.isfunction(function) else type(function).__call__
    line = inspect.getsourcelines(code)[1]
    assert f"({__file__}:{line})" in raised.value.message
    assert words in raised.value.message


def test_the_line_that_raised_is_named() -> None:
    with pytest.raises(RequestError) as raised:
        UserFunction(failing).apply(HISTORY, LOGITS)
    line = inspect.getsourcelines(failing)[1] + 1
    assert raised.value.message.endswith(f"raised ValueError in line {line} of {__file__}: no such token")


def test_one_without_source_is_named_by_its_name() -> None:
    with pytest.raises(RequestError, match=r"^max, a function over logits, "):
        UserFunction(max).apply(HISTORY, LOGITS)  # type: ignore[arg-type]
