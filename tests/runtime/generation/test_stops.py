"""Stop strings in a text that comes in pieces."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.generation.stops import StopStrings

letters = st.text("ab", max_size=24)
stop_lists = st.lists(st.text("ab", min_size=2, max_size=6), max_size=3)


def searched(text, stops):
    """The stop string that is complete first in a whole text, the longest of such, and where it begins."""
    ends = [(text.index(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    return (min(ends)[2], min(ends)[0] - len(min(ends)[2])) if ends else (None, len(text))


def split(text, cuts):
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


@settings(max_examples=500)
@given(letters, stop_lists, st.lists(st.integers(0, 24), max_size=8))
def test_every_splitting_gives_what_a_search_of_the_whole_text_does(text, stops, cuts) -> None:
    follower = StopStrings(stops)
    shown = "".join(map(follower.feed, split(text, cuts)))
    stop, end = searched(text, stops)
    assert follower.found == stop
    assert follower.length == end
    assert shown + follower.finish() == text[:end]


@settings(max_examples=500)
@given(letters, stop_lists, st.lists(st.integers(0, 24), max_size=8))
def test_what_is_held_back_is_the_longest_beginning_of_a_stop_string(text, stops, cuts) -> None:
    follower = StopStrings(stops)
    so_far = shown = ""
    for piece in split(text, cuts):
        so_far, shown = so_far + piece, shown + follower.feed(piece)
        if follower.found:
            assert follower.held == ""
            break
        beginnings = {stop[:n] for stop in stops for n in range(1, len(stop))}
        held = max((one for one in beginnings if so_far.endswith(one)), key=len, default="")
        assert follower.held == held
        assert shown + held == so_far


def test_a_stop_string_across_tokens_ends_the_text_before_it() -> None:
    follower = StopStrings(["\n\n", "END"])
    assert [follower.feed(piece) for piece in ("One E", "N", "large\n", "\nmore", "after")] == [
        "One ",
        "",
        "ENlarge",
        "",
        "",
    ]
    assert (follower.found, follower.length, follower.finish()) == ("\n\n", len("One ENlarge"), "")


def test_without_stop_strings_all_is_shown_at_once() -> None:
    follower = StopStrings([])
    assert follower.feed("text") == "text"
    assert follower.found is None
