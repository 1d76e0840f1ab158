"""The text of new tokens is shown while they come."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.generation.text_stream import _CONTEXT, TextStream
from runtime.generation.tokenizer import Tokenizer
from tests.runtime.generation import small_tokenizers as small
from tests.runtime.generation.test_stops import searched

BAD = "\N{REPLACEMENT CHARACTER}"
counts = st.integers(0, 6 * _CONTEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


def streamed(stream: TextStream, ids: list[int]) -> list[str]:
    """The pieces that a stream gives for tokens; the last is what its end gives."""
    return [*map(stream.append, ids), stream.finish()]


def drawn(draw: random.Random, size: int, count: int) -> list[int]:
    """Ids of which many are the same, so that characters are completed; some are beyond the tokenizer's own."""
    few = [draw.randrange(size + 3) for _ in range(6)]
    return [draw.choice(few) if draw.random() < 0.5 else draw.randrange(size + 3) for _ in range(count)]


@pytest.mark.parametrize("kind", small.KINDS)
@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), before=counts, after=counts)
def test_the_pieces_are_the_continuation_of_the_prompt(
    folder: Path, kind: str, seed: int, before: int, after: int
) -> None:
    draw = random.Random(seed)
    made = small.KINDS[kind](draw)
    tokenizer = small.loaded(made, folder)
    ids = drawn(draw, made.get_vocab_size(), before + after)
    stream = TextStream(tokenizer, ids[:before])
    pieces = streamed(stream, ids[before:])
    assert "".join(pieces) == stream.text == tokenizer.continuation(ids[:before], ids[before:])[1]


@pytest.mark.parametrize("kind", small.KINDS)
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    text=st.text("ab é日本🙂👩🏽‍🚀.'snt", min_size=1, max_size=60),
    where=st.floats(0, 1),
    stops=st.lists(st.text("ab é日🙂.", min_size=1, max_size=3), max_size=2),
)
def test_texts_are_shown_up_to_the_first_stop_string(
    folder: Path, kind: str, seed: int, text: str, where: float, stops: list[str]
) -> None:
    tokenizer = small.loaded(small.KINDS[kind](random.Random(seed)), folder)
    ids = tokenizer.encode(text)
    split = round(where * len(ids))
    whole = tokenizer.continuation(ids[:split], ids[split:])[1]
    stop, end = searched(whole, stops)
    stream = TextStream(tokenizer, ids[:split], stops)
    assert "".join(streamed(stream, ids[split:])) == stream.text == whole[:end]
    assert stream.stopped == (stop is not None)


@given(
    seed=st.integers(0, 2**32),
    text=st.text("ab é日本🙂", min_size=1, max_size=60),
    before=st.text("ab é日本🙂", max_size=3),
)
def test_a_character_is_shown_with_the_token_that_completes_it(folder: Path, seed: int, text: str, before: str) -> None:
    tokenizer = small.loaded(small.byte_level_bpe(random.Random(seed)), folder)
    prompt = tokenizer.encode(before)
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer, prompt)
    for count, token in enumerate(ids, 1):
        stream.append(token)
        assert stream.text == tokenizer.continuation(prompt, ids[:count])[1].removesuffix(BAD)


def byte_level(folder: Path) -> Tokenizer:
    """Every byte is a token of its own; there are no others."""
    made = small.byte_level_bpe(random.Random(0))
    made.model.dropout = 1.0  # merge nothing
    return small.loaded(made, folder)


def test_half_a_character_is_held_back_and_given_at_the_end(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    ids = [token for token in tokenizer.encode("a🙂") if tokenizer.decode([token]) != " "]
    assert len(ids) == 5
    assert streamed(TextStream(tokenizer, [7]), ids) == ["a", "", "", "", "🙂", ""]
    assert streamed(TextStream(tokenizer, [7]), ids[:4]) == ["a", "", "", "", BAD]
    assert streamed(TextStream(tokenizer, ids[:3]), ids[3:]) == ["", "🙂", ""]


def test_bytes_that_never_make_a_character_are_shown_with_the_next_token(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    rest = tokenizer.encode("é")[-1]
    pieces = streamed(TextStream(tokenizer, []), [rest] * 100)
    assert pieces == ["", *[BAD] * 100]


def test_single_bytes_wait_for_the_token_after_them(tmp_path: Path) -> None:
    made = small.metaspace_bpe(random.Random(0))
    tokenizer, vocabulary = small.loaded(made, tmp_path), made.get_vocab()
    a, *letters = (vocabulary[name] for name in ("a", "<0xE6>", "<0x97>", "<0xA5>"))
    assert streamed(TextStream(tokenizer, [a]), [*letters, a]) == ["", "", "", "日a", ""]
    assert streamed(TextStream(tokenizer, [a]), letters) == ["", "", "", "日"]
    # A byte too many spoils all of them, in this decoder.
    assert streamed(TextStream(tokenizer, [a]), [*letters, letters[0], a])[-2:] == [4 * BAD + "a", ""]
    assert streamed(TextStream(tokenizer, [a, *letters[:1]]), [*letters[1:], a])[-2:] == ["日a", ""]


def test_a_stop_string_across_tokens_ends_the_text_before_it(tmp_path: Path) -> None:
    tokenizer = small.loaded(small.words("▁Once", "▁upon", "▁a", "▁time"), tmp_path)
    stream = TextStream(tokenizer, [1], ["on a t", "never"])
    assert [stream.append(token) for token in (2, 3, 4, 2)] == [" up", "", "", ""]
    assert (stream.stopped, stream.text, stream.finish()) == (True, " up", "")


def test_the_beginning_of_a_stop_string_is_given_at_the_end(tmp_path: Path) -> None:
    tokenizer = small.loaded(small.words("▁Once", "▁upon"), tmp_path)
    stream = TextStream(tokenizer, [1], ["upon a"])
    assert (stream.append(2), stream.finish(), stream.finish(), stream.append(2)) == (" ", "upon", "", "")
    assert (stream.stopped, stream.text) == (False, " upon")


def test_special_tokens_show_nothing(tmp_path: Path) -> None:
    tokenizer = small.loaded(small.words("▁Once", "▁upon", special=("</s>",)), tmp_path)
    assert streamed(TextStream(tokenizer, [3]), [1, 3, 2, 3]) == ["Once", "", " upon", "", ""]


@pytest.mark.parametrize("kind", small.KINDS)
def test_what_is_decoded_for_a_token_does_not_grow_with_the_text(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(1)
    made = small.KINDS[kind](draw)
    tokenizer = small.loaded(made, tmp_path)
    decode, decoded = tokenizer.decode, []

    def counting(token_ids, **how):
        decoded.append(len(token_ids))
        return decode(token_ids, **how)

    monkeypatch.setattr(tokenizer, "decode", counting)
    prompt, rest = [draw.randrange(made.get_vocab_size()) for _ in range(2000)], made.token_to_id("a") or 1
    stream = TextStream(tokenizer, prompt)
    # Single bytes wait for the token after them, so there is one after every few.
    ids = [draw.randrange(made.get_vocab_size()) if i % 8 else rest for i in range(2000)]
    streamed(stream, ids)
    assert max(decoded) <= 4 * _CONTEXT
    assert sum(decoded) <= 4 * _CONTEXT * len(ids)
