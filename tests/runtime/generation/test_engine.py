"""Text in, text out, over an executor whose answers are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors

from compiler.errors import RequestError
from runtime.engine_dir.manifest import NoTokenizer, SpecialTokens
from runtime.generation.completion import Completion
from runtime.generation.engine import Engine
from tests.runtime.engines import MANIFEST
from tests.runtime.fakes import VOCAB, FakeExecutor, continuation
from tests.runtime.generation import small_tokenizers as small

PROMPT = [1, 2, 3]
FREE = continuation(PROMPT, 6)
STOP = FREE[3]
NAMES = [f"▁w{i}" for i in range(1, VOCAB)]
WORDS = ["", *(name[1:] for name in NAMES)]

assert STOP not in FREE[:3]
assert 0 not in FREE


def engine(made: small.Made | None, folder: Path, eos: tuple[int, ...] = ()) -> Engine:
    """An engine of the fake executor with that tokenizer and those end tokens."""
    manifest = replace(MANIFEST, tokens=SpecialTokens(eos))
    return Engine(folder, manifest, FakeExecutor(), small.loaded(made, folder) if made else None)


def ordinary() -> small.Made:
    return small.words(*NAMES)


def special() -> small.Made:
    made = ordinary()
    made.add_special_tokens([NAMES[STOP - 1]])
    return made


def added_but_not_special() -> small.Made:
    made = ordinary()
    made.add_tokens([AddedToken(NAMES[STOP - 1], special=False)])
    return made


def beyond_the_vocabulary() -> small.Made:
    return small.words(*(name for i, name in enumerate(NAMES, 1) if i < STOP))


@pytest.mark.parametrize("make", [ordinary, special, added_but_not_special, beyond_the_vocabulary])
@pytest.mark.parametrize("eos", [(STOP,), (96, STOP)])
@pytest.mark.parametrize("most", [4, 6])
def test_an_end_token_is_the_last_id_and_not_in_the_text(tmp_path: Path, make: Any, eos: tuple[int, ...], most: int):
    loaded = engine(make(), tmp_path, eos)
    [found] = loaded.generate([PROMPT], max_new_tokens=most)
    known = [word for i, word in enumerate(WORDS) if make is not beyond_the_vocabulary or i < STOP]
    text = "".join(" " + known[i] for i in FREE[:3] if i < len(known))
    assert found == Completion("w1 w2 w3", PROMPT, text, FREE[:4], "stop")
    [among_others] = [
        c for c in loaded.generate([[5], PROMPT, [7], [8, 9]], max_new_tokens=most) if c.prompt_ids == PROMPT
    ]
    assert among_others == found


@pytest.mark.parametrize("make", [ordinary, added_but_not_special])
def test_after_end_tokens_that_are_ignored_the_text_goes_on(tmp_path: Path, make: Any) -> None:
    [found] = engine(make(), tmp_path, (STOP,)).generate([PROMPT], max_new_tokens=6, ignore_eos=True)
    assert (found.token_ids, found.finish_reason) == (FREE, "length")
    assert found.text == "".join(" " + WORDS[i] for i in FREE)


def test_a_text_that_stops_at_once_is_empty(tmp_path: Path) -> None:
    [found] = engine(ordinary(), tmp_path, (FREE[0],)).generate([PROMPT], max_new_tokens=6)
    assert found == Completion("w1 w2 w3", PROMPT, "", FREE[:1], "stop")


def test_a_prompt_given_as_text_is_shown_as_it_was_given(tmp_path: Path) -> None:
    made = ordinary()
    made.add_special_tokens(["<unk>"])
    for prompt, ids in (("w1 w2 w3", PROMPT), (" w1 w2 w3", PROMPT), ("w1 ¿? w3", [1, 0, 3])):
        [found] = engine(made, tmp_path).generate(prompt, max_new_tokens=3)
        assert (found.prompt, found.prompt_ids) == (prompt, ids)
        assert found.text == "".join(" " + WORDS[i] for i in continuation(ids, 3))


def test_without_a_tokenizer_there_are_ids_only(tmp_path: Path) -> None:
    [found] = engine(None, tmp_path).generate([PROMPT], max_new_tokens=6)
    assert found == Completion("", PROMPT, "", FREE, "length")


def with_an_end_token() -> small.Made:
    """A tokenizer that puts an end token behind every text, as T5's does, and a start token in front."""
    made = ordinary()
    made.add_special_tokens(["w_start", "w_end"])
    ids = [(name, made.token_to_id(name)) for name in ("w_start", "w_end")]
    made.post_processor = processors.TemplateProcessing(single="w_start $A w_end", pair="$A $B", special_tokens=ids)
    return made


def test_an_end_token_behind_prompts_is_noted_once_unless_it_is_left_out(tmp_path: Path) -> None:
    loaded = engine(with_an_end_token(), tmp_path)
    notes: list[str] = []
    loaded.generate(["w1 w2 w3", "w4"], max_new_tokens=1, add_special_tokens=False, note=notes.append)
    loaded.generate([PROMPT], max_new_tokens=1, note=notes.append)
    assert notes == []
    assert loaded.encode("w1", add_special_tokens=False) == [1]
    with pytest.raises(RequestError, match="holds the token id 97"):
        loaded.generate(["w1 w2 w3", "w4"], max_new_tokens=1, note=notes.append)
    assert len(notes) == 1
    assert "ends every prompt with 'w_end'" in notes[0]
    assert "--no-special-tokens" in notes[0]


def test_a_tokenizer_that_is_missing_is_explained(tmp_path: Path) -> None:
    loaded = engine(None, tmp_path)
    with pytest.raises(RequestError) as raised:
        loaded.generate("text")
    assert raised.value.message == "prompt 1 is text, but the engine has no tokenizer"
    loaded.manifest = replace(MANIFEST, no_tokenizer=NoTokenizer("it was lost", "look for it"))
    with pytest.raises(RequestError) as raised:
        loaded.generate([PROMPT, "text"])
    assert raised.value.message == "prompt 2 is text, but the engine has no tokenizer: it was lost"
    assert raised.value.hint == "look for it; or give token ids (--prompt-ids 1,2,3)"
