"""Choosing the next token of each row from its logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from compiler.errors import RequestError


class Sampler(Protocol):
    """Chooses tokens. One that draws at random keeps a generator for each request, so that batching changes nothing."""

    def choose(self, logits: Tensor, requests: Sequence[int | None]) -> list[int]:
        """The next token of every row.

        Args:
            logits: `[B, vocabulary]`; the memory may be used again afterwards.
            requests: the number of each row's request, from 0; None for a row whose choice will not be used.

        Raises:
            RequestError: if the logits of a request are not numbers.
        """
        ...


class Greedy:
    """The most likely token; of equally likely ones, that with the lowest id."""

    def choose(self, logits: Tensor, requests: Sequence[int | None]) -> list[int]:
        """See `Sampler.choose`."""
        largest, ids = most_likely(logits)
        for value, request in zip(largest, requests, strict=True):
            if request is not None and not math.isfinite(value):
                raise not_finite(value, f" for prompt {request + 1}")
        return ids


def most_likely(logits: Tensor) -> tuple[list[float], list[int]]:
    """The largest logit of each row and the token that has it: of equal ones the first, and NaN wherever there is one.

    Args:
        logits: `[rows, vocabulary]`, floating-point, on any device.
    """
    if logits.device.type == "cpu" and logits.dtype is torch.float32:
        # numpy's search is vectorized, and takes a quarter of the time of torch's.
        values = logits.numpy()
        places = values.argmax(-1)
        return values[np.arange(len(values)), places].tolist(), places.tolist()
    largest, ids = logits.max(-1)
    return largest.tolist(), list(map(int, ids.tolist()))


def not_finite(value: float, whose: str = "") -> RequestError:
    """The error that says that a model's logits are no numbers.

    Args:
        value: the logit.
        whose: whose logits they are, for the message, beginning with a space.
    """
    return RequestError(
        f"the model's logits{whose} are not finite ({value})",
        hint="float16 overflows in some models: compile with --dtype bfloat16 or float32; if it was, "
        "the checkpoint's weights may hold NaN",
    )
