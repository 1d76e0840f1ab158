"""The text of new tokens, shown while they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runtime.generation.stops import StopStrings
from runtime.generation.tokenizer import INCOMPLETE, Tokenizer

_CONTEXT = 8
"""How many tokens before a new one are decoded with it.

What a token's text is depends on the tokens right before it, never on those far away: whether a word opens the text,
and which bytes of a character have come. A character has at most four bytes."""


class TextStream:
    """Decodes new tokens one by one, in the context of their prompt.

    The pieces that `append` and `finish` give, joined, are the text of `Tokenizer.continuation`, up to the first stop
    string. What is given never changes later: a character of which bytes are missing is held back, and so is what may
    be the beginning of a stop string. Where tokens of single bytes stand for what is in no other token (byte fallback),
    a decoder decides about all consecutive ones together, so these wait for the token that follows them.

    What a token costs does not grow with the length of the prompt or the text.

    A token that ended the text, as the model's end tokens and stop ids do, is no part of it: do not append it.

    Args:
        tokenizer: the tokenizer.
        prompt_ids: the prompt's token ids.
        stop: the stop strings, none of them empty; the text ends before the first to occur.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stop: Iterable[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, StopStrings(stop)
        self._pieces: list[str] = []
        self._ended = False
        self._prompt = _end_of_prompt(tokenizer, prompt_ids)
        self._new: list[int] = []  # the tokens after the prompt that are decoded next time
        # How many characters of the text of both are shown, or the prompt's. None as long as a character may belong
        # to either.
        self._shown: int | None = None
        self._whole = False  # whether all that came is shown, so that a token may be decoded alone if any can

    @property
    def text(self) -> str:
        """All that has been given so far."""
        return "".join(self._pieces)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has occurred. The text has ended then, and more tokens give nothing."""
        return self._stops.found is not None

    def append(self, token_id: int) -> str:
        """Take up the next token.

        Args:
            token_id: a token id. Special tokens and ids beyond the tokenizer's own have no text.

        Returns:
            The characters that can be shown now; they follow all those given before.
        """
        if self.stopped or self._ended:
            return ""
        if self._whole and (piece := self._tokenizer.piece(token_id)) is not None:
            self._prompt, self._new, self._shown = [], [], 0
            return self._given(self._stops.feed(piece))
        if not self._tokenizer.has_text(token_id):
            return ""
        self._whole = False
        self._new.append(token_id)
        if self._tokenizer.is_byte(token_id):
            return ""
        text, start = self._decoded()
        end = len(text) - text.endswith(INCOMPLETE)
        if start < end or end == len(text):
            self._shown = end
            self._whole = end == len(text)
            self._shorten(text[end:])
        return self._given(self._stops.feed(text[start:end]))

    def finish(self) -> str:
        """The characters that are still held back, once the last token has come. The text has ended then."""
        if self.stopped or self._ended:
            return ""
        self._ended = True
        text, start = self._decoded()
        return self._given(self._stops.feed(text[start:]) + self._stops.finish())

    def _decoded(self) -> tuple[str, int]:
        """The text of the tokens in work, and how many of its characters are shown, or the prompt's."""
        if self._shown is not None:
            return self._tokenizer.decode([*self._prompt, *self._new]), self._shown
        before, after = self._tokenizer.continuation(self._prompt, self._new)
        return before + after, len(before)

    def _shorten(self, held: str) -> None:
        """Forget the tokens that later ones do not depend on, when they are many; `held` is what is not shown."""
        tokens = [*self._prompt, *self._new]
        if len(tokens) >= 2 * _CONTEXT:
            self._prompt, self._new = [], [token for token in tokens if self._tokenizer.has_text(token)][-_CONTEXT:]
            self._shown = len(self._tokenizer.decode(self._new)) - len(held)

    def _given(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
        return piece


def _end_of_prompt(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> list[int]:
    """The last tokens of a prompt, on which the text after it depends: single bytes at its end, and some before."""
    start, needed, bytes_end_it = len(prompt_ids), _CONTEXT, True
    while start and needed:
        start -= 1
        if tokenizer.has_text(prompt_ids[start]):
            bytes_end_it = bytes_end_it and tokenizer.is_byte(prompt_ids[start])
            needed -= not bytes_end_it
    return list(prompt_ids[start:])
