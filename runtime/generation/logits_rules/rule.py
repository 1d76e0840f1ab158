"""What a rule over logits is, and what it is told of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class History:
    """The tokens of one request so far. It has several rows in a beam search, otherwise one.

    Attributes:
        token_ids: `i64[rows, length]`, the tokens of the prompt and the new ones of each row.
        prompt_tokens: how many of them are the prompt's.
    """

    token_ids: Tensor
    prompt_tokens: int

    @property
    def length(self) -> int:
        """How many tokens each row has, those of the prompt among them."""
        return self.token_ids.shape[1]

    @property
    def new_tokens(self) -> int:
        """How many new tokens each row has."""
        return self.length - self.prompt_tokens


class LogitsRule(Protocol):
    """A rule over the logits of one request."""

    def apply(self, history: History, logits: Tensor) -> Tensor:
        """The logits to go on with.

        Args:
            history: the tokens of each row so far, on the device of the logits.
            logits: `f32[rows, vocabulary]`; the rule may write into them and return them.

        Returns:
            Logits of the same shape and type.
        """
        ...
