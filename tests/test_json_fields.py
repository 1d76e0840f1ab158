"""Keys of JSON are checked as they are read, and errors name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from compiler.errors import EngineError, LlmcError
from compiler.json_fields import Fields

VALUES = {
    "count": 3, "whole": 2.0, "rate": 1.5, "on": True, "word": "x", "none": None, "sizes": [1, 2.0], "words": ["a"],
    "inner": {"name": "y", "parts": [{"n": 1}, {"n": "1"}]}, "old": 4, "new": 4, "other": 5,
}  # fmt: skip


def fields(values: Any = VALUES) -> Fields:
    return Fields(values, label="file.json: the key", error=EngineError, hint="mend it")


def test_values_of_the_right_type_are_given():
    read = fields()
    assert (read.integer("count", 3), read.integer("whole")) == (3, 2)
    assert (read.boolean("on"), read.string("word")) == (True, "x")
    assert (read.take("rate", float), read.take("count", float)) == (1.5, 3.0)
    assert (read.integers("sizes"), read.string_list("words")) == ((1, 2), ("a",))
    assert (read.optional_integer("none"), read.optional_string("absent")) == (None, None)
    assert read.take("none", int, default=7) == 7
    inner = read.section("inner")
    assert inner.string("name") == "y"
    assert [part.values for part in inner.sections("parts")] == [{"n": 1}, {"n": "1"}]
    assert read.take("new", int, aliases=["old", "absent"]) == 4
    assert read.take("absent", int, aliases=["old"]) == 4


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda f: f.integer("absent"), "'absent' is missing; it must be an integer"),
        (lambda f: f.integer("none"), "'none' is null; it must be an integer"),
        (lambda f: f.integer("on"), "'on' is true; it must be an integer"),
        (lambda f: f.integer("rate"), "'rate' is 1.5; it must be an integer"),
        (lambda f: f.integer("count", 4), "'count' is 3; it must be at least 4"),
        (lambda f: f.boolean("count"), "'count' is 3; it must be true or false"),
        (lambda f: f.take("on", float), "'on' is true; it must be a number"),
        (lambda f: f.string("count"), "'count' is 3; it must be a string"),
        (lambda f: f.take("absent", int, aliases=["word"]), "'word' is 'x'; it must be an integer"),
        (lambda f: f.string_list("sizes"), "'sizes' is [1, 2.0]; it must be a list of strings"),
        (lambda f: f.integers("sizes", low=2), "'sizes' is [1, 2.0]; none may be below 2"),
        (lambda f: f.section("sizes"), "'sizes' is [1, 2.0]; it must be an object"),
        (lambda f: f.section("inner").integer("name"), "'inner.name' is 'y'; it must be an integer"),
        (
            lambda f: [p.integer("n") for p in f.section("inner").sections("parts")],
            "'inner.parts.1.n' is '1'; it must be",
        ),
        (lambda f: list(f.sections("words")), "'words.0' is 'a'; it must be an object"),
        (lambda f: f.strings(), "'count' is 3; it must be a string"),
    ],
)
def test_errors_name_the_file_and_the_key(read: Callable[[Fields], object], message: str):
    with pytest.raises(EngineError) as caught:
        read(fields())
    assert caught.value.message.startswith(f"file.json: the key {message}")
    assert caught.value.hint == "mend it"


def test_spellings_that_contradict_each_other():
    with pytest.raises(LlmcError) as caught:
        fields().take("new", int, aliases=["old", "other"])
    assert caught.value.message == "file.json: the keys 'new' and 'other' contradict each other: 4 and 5"


def test_a_long_value_is_not_shown():
    with pytest.raises(EngineError, match=r"'long' is of type list; it must be a string"):
        fields({"long": list(range(100))}).string("long")


def test_what_is_no_object():
    with pytest.raises(EngineError, match=r"^file.json: the key 'the whole' is \[1\]; it must be an object"):
        fields([1])
