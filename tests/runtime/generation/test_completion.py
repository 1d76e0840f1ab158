"""What requests get."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from compiler.errors import RequestError
from runtime.generation.completion import beam_text
from runtime.generation.text_stream import TextStream
from runtime.generation.tokenizer import Tokenizer
from tests.paths import MODELS
from tests.runtime.generation.in_flight_engines import fake, small_engine

TOKENIZER = Tokenizer(MODELS / "gptneox-tiny" / "tokenizer.json")


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (["t the", "h"], "t t"),  # a token completes both: the text ends before what is complete first
        (["the", "t the"], ""),  # both are complete at once: the longest counts
        (["th"], "t "),
        (["never"], "t the end"),
    ],
)
def test_a_beam_ends_before_the_stop_string_before_which_a_stream_ends(stops: list[str], text: str) -> None:
    prompt, ids = TOKENIZER.encode("A"), TOKENIZER.encode("At the end")[1:]
    stream, new = TextStream(TOKENIZER, prompt, stops), list[int]()
    while len(new) < len(ids) and not stream.stopped:
        new.append(ids[len(new)])
        stream.append(new[-1])
    stream.finish()
    group: Any = SimpleNamespace(prompt_ids=prompt, params=SimpleNamespace(stop=stops), stop_ids=frozenset())
    assert beam_text(group, tuple(new), TOKENIZER, stopped=stream.stopped) == stream.text == text


@pytest.mark.parametrize("returned", [1, 2])
def test_a_beam_search_that_is_cut_short_gives_as_many_texts_as_were_asked_for(returned: int) -> None:
    engine = small_engine("gptneox-tiny")
    wish = {"num_beams": 4, "num_return_sequences": returned, "max_new_tokens": 40, "ignore_eos": True}
    handle = engine.submit("The function", wish)
    for _ in range(6):
        engine.step()
    assert handle.beams is not None
    beams = [ids[len(handle.prompt_ids) :] for ids in handle.beams.token_ids]
    engine.cancel(handle)
    found = engine.completions(handle)
    assert [completion.token_ids for completion in found] == beams[:returned]
    assert [completion.sample for completion in found] == ([0, 1] if returned > 1 else [None])
    assert engine.tokenizer is not None
    for completion in found:
        assert completion.finish_reason == "cancelled"
        assert completion.text == engine.tokenizer.continuation(handle.prompt_ids, completion.token_ids)[1] != ""


def test_a_beam_search_that_is_cut_short_gives_what_it_has_found_first() -> None:
    engine = small_engine("gptneox-tiny")
    wish = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 40, "early_stopping": True}
    ends = engine.generate("The function", {**wish, "max_new_tokens": 3, "ignore_eos": True})[0].token_ids[-1:]
    handle = engine.submit("The function", {**wish, "stop_token_ids": ends})
    while handle.beams is not None and not handle.beams.hypotheses():
        engine.step()
    engine.cancel(handle)
    found = engine.completions(handle)
    count = [completion.finish_reason for completion in found].count("stop")
    assert 0 < count < 4
    assert [completion.finish_reason for completion in found] == ["stop"] * count + ["cancelled"] * (4 - count)
    assert [completion.sample for completion in found] == [0, 1, 2, 3]
    assert all((completion.score is not None) == (completion.finish_reason == "stop") for completion in found)


def test_a_beam_search_that_fails_gives_as_many_texts_as_were_asked_for() -> None:
    def fails(token_ids: Any, logits: Any) -> Any:
        raise ValueError("no")

    engine, _ = fake()
    with pytest.raises(RequestError, match="raised ValueError") as raised:
        engine.generate([[1], [2]], [{"num_beams": 3, "logits_processors": [fails]}, {"max_new_tokens": 2}])
    found = raised.value.completions  # type: ignore[attr-defined]
    assert [completion.finish_reason for completion in found] == ["error", "length"]
