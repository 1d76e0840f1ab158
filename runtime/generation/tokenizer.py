"""The engine's tokenizer: text to token ids and back, with the `tokenizers` library alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from compiler.errors import EngineError, RequestError

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are no character (yet)."""

_BYTES_OF_A_CHARACTER = 4  # at most, in UTF-8
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class Tokenizer:
    """The tokenizer in a `tokenizer.json`.

    Raises:
        EngineError: if the file is none, or one that the installed `tokenizers` cannot read.
    """

    def __init__(self, path: Path) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions
            raise EngineError(
                f"tokenizers {tokenizers.__version__} cannot read {path}: {error}",
                hint="install the version that the engine's manifest names, or compile the engine again",
            ) from None
        # Files often keep the settings of some training script.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)
        # Each token stands for bytes of its own, whatever is beside it: texts are the bytes of all.
        self._joins_bytes = isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel)
        self._pieces: dict[int, str | None] = {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text.

        Args:
            text: the text.
            add_special_tokens: whether to put the tokens around it that the tokenizer says (OPT's `</s>` in front).

        Raises:
            RequestError: if the text is not valid Unicode (bytes of another encoding, from a terminal).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the prompt {text[:40]!r} is not valid Unicode: {error.reason} at character {error.start}",
                hint="give it in UTF-8",
            ) from None
        return list(map(int, self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids))

    def appended(self, text: str) -> str | None:
        """The last of the tokens that the tokenizer puts behind a text, such as T5's `</s>`; None if it puts none."""
        encoding = self._tokenizer.encode(text)
        if 0 not in encoding.special_tokens_mask or not encoding.special_tokens_mask[-1]:
            return None
        return str(encoding.tokens[-1])

    def decode(self, token_ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ids, with or without special tokens; ids beyond the tokenizer's own (padded rows) give none."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=not special))

    def piece(self, token_id: int) -> str | None:
        """The text of a token behind any whole characters; None if it depends on the tokens beside it."""
        if not self._joins_bytes:
            return None
        if token_id not in self._pieces:
            text = self.decode([token_id])
            self._pieces[token_id] = None if INCOMPLETE in text else text
        return self._pieces[token_id]

    def id_of(self, token: str) -> int | None:
        """The id of a token by its spelling, such as `</s>`; None if there is none."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)

    def has_text(self, token_id: int) -> bool:
        """Whether a token is part of decoded texts: it is no special token, and not beyond the tokenizer's own."""
        return token_id not in self._special and self._tokenizer.id_to_token(token_id) is not None

    def is_byte(self, token_id: int) -> bool:
        """Whether a token such as `<0xE6>` stands for a single byte of what is in no other token (byte fallback)."""
        token = self._tokenizer.id_to_token(token_id)
        return token is not None and _BYTE.fullmatch(token) is not None and self.decode([token_id]) != token

    def continuation(self, prompt_ids: Sequence[int], new_ids: Sequence[int]) -> tuple[str, str]:
        """The text of a prompt and the text of what follows it: joined they are the text of all ids.

        The new ids are decoded in the context of the prompt, for what a token's text is depends on what stands before
        it: a word that opens a text loses the space in front, and several tokens may make up one character.

        Args:
            prompt_ids: the prompt.
            new_ids: the tokens after it.

        Returns:
            Both texts, without special tokens. A character that the prompt leaves incomplete belongs to the second.
        """
        whole, count = self.decode([*prompt_ids, *new_ids]), len(prompt_ids)
        cut = 0
        # One incomplete character can spoil those before it, so the prompt is tried without its last bytes, too.
        for size in range(count, max(-1, count - _BYTES_OF_A_CHARACTER), -1):
            head = self.decode(prompt_ids[:size])
            cut = max(cut, _agreement(head, whole))
            if cut == len(head):
                break
        return whole[:cut], whole[cut:]


def _agreement(a: str, b: str) -> int:
    """How many characters at the beginning of two texts are the same."""
    if b.startswith(a):
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
