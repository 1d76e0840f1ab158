"""Bad words as token ids."""

import pytest
import tokenizers

from compiler.errors import RequestError
from runtime.generation.bad_words import bad_word_ids
from tests.paths import MODELS


def test_a_word_is_spelt_at_a_beginning_and_after_a_space() -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(MODELS / "gptneox-tiny" / "tokenizer.json"))

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    found = bad_word_ids(["function", " function", "upon"], encode)
    assert found == [tuple(encode(text)) for text in dict.fromkeys(["function", " function", "upon", " upon"])]
    assert all(found)


def test_a_word_without_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="'zzz'"):
        bad_word_ids(["zzz"], lambda text: [])
