"""New tokens are decoded in the context of their prompt."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.generation import small_tokenizers as small


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.mark.parametrize("kind", small.KINDS)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 12), where=st.floats(0, 1))
def test_prompt_and_text_are_the_text_of_all_ids(folder: Path, kind: str, seed: int, count: int, where: float) -> None:
    draw = random.Random(seed)
    made = small.KINDS[kind](draw)
    tokenizer, split = small.loaded(made, folder), round(where * count)
    # Some ids are beyond the tokenizer's own: rows of a padded embedding.
    ids = [draw.randrange(made.get_vocab_size() + 3) for _ in range(count)]
    prompt, text = tokenizer.continuation(ids[:split], ids[split:])
    whole, head = made.decode(ids), made.decode(ids[:split])
    assert prompt + text == whole
    # The prompt's part is all of its text, unless what follows changes that.
    assert prompt == head or not whole.startswith(head)
    assert head.startswith(prompt) or "\N{REPLACEMENT CHARACTER}" in head


@pytest.mark.parametrize("kind", small.KINDS)
@given(seed=st.integers(0, 2**32), text=st.text("ab é日本🙂.'snt", min_size=1, max_size=12), where=st.floats(0, 1))
def test_a_text_that_is_cut_between_tokens_comes_back(
    folder: Path, kind: str, seed: int, text: str, where: float
) -> None:
    made = small.KINDS[kind](random.Random(seed))
    tokenizer = small.loaded(made, folder)
    ids = tokenizer.encode(text)
    split = round(where * len(ids))
    prompt, rest = tokenizer.continuation(ids[:split], ids[split:])
    assert prompt + rest == tokenizer.decode(ids)
    if kind == "byte-level BPE" and not made.encode("a").tokens[0].startswith("Ġ"):
        assert prompt + rest == text  # this kind loses nothing


def test_the_space_before_the_first_new_word_is_kept(tmp_path: Path) -> None:
    tokenizer = small.loaded(small.words("▁Once", "▁upon", "on", special=("</s>",)), tmp_path)
    assert tokenizer.decode([2]) == "upon"
    assert tokenizer.continuation([1], [2]) == ("Once", " upon")
    assert tokenizer.continuation([1, 2], [3]) == ("Once upon", "on")
    assert tokenizer.continuation([4], [1]) == ("", "Once")
    assert tokenizer.continuation([1], []) == ("Once", "")


def test_a_character_that_the_prompt_leaves_incomplete_belongs_to_the_new_text(tmp_path: Path) -> None:
    draw = random.Random(0)
    for made in (small.byte_level_bpe(draw), small.metaspace_bpe(draw)):
        tokenizer = small.loaded(made, tmp_path)
        ids = made.encode("a 日🙂", add_special_tokens=False).ids
        splits = [tokenizer.continuation(ids[:size], ids[size:]) for size in range(len(ids) + 1)]
        assert {prompt + text for prompt, text in splits} == {made.decode(ids)}
        assert not any("\N{REPLACEMENT CHARACTER}" in prompt + text for prompt, text in splits)
        prompts = [prompt.lstrip() for prompt, _ in splits]
        assert {"a", "a 日", "a 日🙂"} <= set(prompts) <= {"", "a", "a ", "a 日", "a 日🙂"}
