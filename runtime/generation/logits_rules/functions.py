"""Functions of the user's over logits, as rules."""

from __future__ import annotations

import inspect
import traceback

import torch
from torch import Tensor

from compiler.errors import RequestError
from runtime.generation.logits_rules.rule import History
from runtime.generation.sampling_params import LogitsFunction


class UserFunction:
    """Calls a function for every row, with the row's token ids and a copy of its logits.

    Args:
        function: see `LogitsFunction`.
    """

    def __init__(self, function: LogitsFunction) -> None:
        self._function = function

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """See `LogitsRule.apply`.

        Raises:
            RequestError: naming the function with its file and line, if it raises an error, or returns no
                floating-point tensor of the shape that it was given.
        """
        rows = zip(history.token_ids.tolist(), logits, strict=True)
        return torch.stack([self._call(token_ids, row) for token_ids, row in rows])

    def _call(self, token_ids: list[int], logits: Tensor) -> Tensor:
        try:
            result = self._function(token_ids, logits.clone())
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[1:2]
            where = "".join(f" in line {frame.lineno} of {frame.filename}" for frame in frames)
            raise RequestError(
                f"{described(self._function)}, a function over logits, raised {type(error).__name__}{where}: {error}",
                hint=None if frames else "it is called with two arguments: a row's token ids, and its logits",
            ) from error
        if not isinstance(result, Tensor) or result.shape != logits.shape or not result.is_floating_point():
            got = f"{result.dtype} of shape {list(result.shape)}" if isinstance(result, Tensor) else _kind(result)
            raise RequestError(
                f"{described(self._function)}, a function over logits, returned {got}",
                hint=f"it must return the logits to go on with: a floating-point tensor of shape {list(logits.shape)}",
            )
        return result.to(logits)


def _kind(result: object) -> str:
    return "None" if result is None else f"something of type {type(result).__qualname__}"


def described(function: LogitsFunction) -> str:
    """The name of a function, with the file and line of its definition where they are known."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    code = inspect.unwrap(function) if hasattr(function, "__code__") else type(function).__call__
    try:
        return f"{name} ({inspect.getsourcefile(code)}:{inspect.getsourcelines(code)[1]})"
    except (TypeError, OSError):
        return str(name)
