"""The token ids of bad words that are given as texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from compiler.errors import RequestError


def bad_word_ids(words: Iterable[str], encode: Callable[[str], Sequence[int]]) -> list[tuple[int, ...]]:
    """The sequences of tokens that spell the words: each as it stands, and as a word after a space.

    A word within another one (`cat` in `concatenate`) may have other tokens, and is not found then.

    Args:
        words: the texts.
        encode: gives the ids of a text, without the tokens that a tokenizer puts around it.

    Raises:
        RequestError: naming the word, if the tokenizer has no tokens for it.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        spelt = [tuple(encode(word)), tuple(encode(f" {word.lstrip()}"))]
        if not spelt[0]:
            raise RequestError(f"bad_words holds {word!r}, for which the tokenizer has no tokens", hint="leave it out")
        found.update(dict.fromkeys(ids for ids in spelt if ids))
    return list(found)
