"""Pipelines as text: what is read, how it is spelt again, and what mistakes are answered."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import PassError
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.passes import canonical, cse, find_pass, fold, parse_pipeline, register_pass, spell
from tests.registrations import forgotten


class Style(enum.Enum):
    plain = "plain"
    fancy = "very fancy"


@dataclass(frozen=True)
class Sample:
    """Has an option of every type."""

    method: Annotated[Literal["awq", "gptq"], "how to choose scales"]
    group: Annotated[int, "columns that share a scale"] = 128
    damp: float = 0.01
    symmetric: bool = False
    keep: bool = True
    name: str = "x"
    style: Style = Style.plain
    store: DType = DType.i4
    clip: float | None = None
    label: str | None = None
    layers: tuple[int, ...] = ()
    words: tuple[str, ...] = ("a", "b")
    where: Path = Path("data")
    extra: Literal[1, 2] = 1
    made: int = field(default_factory=lambda: 3)

    def __call__(self, graph: Graph) -> Graph:
        return graph


@dataclass(frozen=True)
class Picky:
    """Refuses odd numbers."""

    tp: int

    def __post_init__(self) -> None:
        if self.tp % 2:
            raise ValueError("tp must be even")

    def __call__(self, graph: Graph) -> Graph:
        return graph


@pytest.fixture(autouse=True, scope="module")
def samples() -> Iterator[None]:
    with forgotten():
        register_pass("sample")(Sample)
        register_pass("picky")(Picky)
        yield


def test_reads_stages_in_order() -> None:
    assert parse_pipeline("fold,sample=awq:group=64:symmetric,cse") == (fold, Sample("awq", 64, symmetric=True), cse)
    assert parse_pipeline(" fold , sample = awq : group = 64 ") == (fold, Sample("awq", 64))
    assert parse_pipeline("") == parse_pipeline("  ") == ()


@pytest.mark.parametrize(
    ("given", "spelt"),
    [
        ("sample=awq", "sample=awq"),
        ("sample:method=gptq:group=128", "sample=gptq"),
        ("sample=awq:symmetric:keep=false", "sample=awq:symmetric:keep=false"),
        ("sample=awq:symmetric=false:keep", "sample=awq"),
        ("sample=awq:damp=1e20:group=-1", "sample=awq:group=-1:damp=1e20"),
        ("sample=awq:name=:label=none", "sample=awq:name="),
        ("sample=awq:name=a%2Cb:label=%6Eone", "sample=awq:name=a%2Cb:label=%6Eone"),
        ("sample=awq:style=very fancy:store=f8e4m3", "sample=awq:style=very%20fancy:store=f8e4m3"),
        ("sample=awq:layers=0+1+5:words=", "sample=awq:layers=0+1+5:words="),
        ("sample=awq:where=/tmp/x.txt:extra=2:made=4", "sample=awq:where=/tmp/x.txt:extra=2:made=4"),
        ("dtype=f16,cleanup", "dtype=float16,cleanup"),
    ],
)
def test_canonical_spelling(given: str, spelt: str) -> None:
    assert canonical(parse_pipeline(given)) == spelt
    assert canonical(parse_pipeline(spelt)) == spelt


samples_of_every_value = st.builds(
    Sample,
    method=st.sampled_from(["awq", "gptq"]),
    group=st.integers(),
    damp=st.floats(allow_nan=False),
    symmetric=st.booleans(),
    keep=st.booleans(),
    name=st.text(),
    style=st.sampled_from(Style),
    store=st.sampled_from(DType),
    clip=st.none() | st.floats(allow_nan=False),
    label=st.none() | st.text() | st.just("none"),
    layers=st.lists(st.integers()).map(tuple),
    words=st.lists(st.text(min_size=1) | st.just("none")).map(tuple),
    where=st.sampled_from([Path("a"), Path("/b c/d,e"), Path("none")]),
    extra=st.sampled_from([1, 2]),
    made=st.integers(),
)


@given(st.lists(samples_of_every_value | st.just(fold), max_size=3))
def test_reading_the_canonical_spelling_gives_the_passes(passes) -> None:
    text = canonical(passes)
    assert list(parse_pipeline(text)) == passes
    assert canonical(parse_pipeline(text)) == text
    assert not set(text) & set(" \"'$&|;<>()*?[]{}!#\\`\n\t")


def test_what_has_no_spelling() -> None:
    with pytest.raises(PassError) as caught:
        spell(Sample("awq", words=("a", "")))
    assert str(caught.value) == "('a', '') cannot be written as an option: an item is empty"


def test_a_pass_that_is_not_registered_goes_by_its_own_name() -> None:
    def my_pass(graph: Graph) -> Graph:
        return graph

    @dataclass(frozen=True)
    class MergeAll:
        def __call__(self, graph: Graph) -> Graph:
            return graph

    assert canonical([my_pass, MergeAll()]) == "my-pass,merge-all"


ALL_OPTIONS = (
    "hint: the options of 'sample', with their defaults: method=awq|gptq (required), group=128, damp=0.01, "
    "symmetric=false, keep=true, name=x, style=plain, store=i4, clip=none, label=none, layers=, words=a+b, where=data, "
    "extra=1, made=3"
)


# For each text: the number of the wrong stage, what is said of it, and the hint.
MISTAKES = {
    "fold,clenup": (
        (2, "clenup"),
        "there is no pass 'clenup'; did you mean 'cleanup'?",
        "hint: `llmc passes` lists them; --plugin FILE.py adds those of a file",
    ),
    "sample=awq:grup=64,fold": (
        (1, "sample=awq:grup=64"),
        "the pass 'sample' has no option 'grup'; did you mean 'group'?",
        ALL_OPTIONS,
    ),
    "fold:hard": ((1, "fold:hard"), "the pass 'fold' has no option 'hard'", "hint: 'fold' has no options"),
    "fold=1": ((1, "fold=1"), "the pass 'fold' takes no value", ""),
    "sample=awq:group=many": (
        (1, "sample=awq:group=many"),
        "the option 'group' of 'sample' is a whole number, not 'many'",
        "",
    ),
    "sample=rtn": ((1, "sample=rtn"), "the option 'method' of 'sample' is one of awq, gptq, not 'rtn'", ""),
    "sample=awq:damp=nan": ((1, "sample=awq:damp=nan"), "the option 'damp' of 'sample' is a number, not 'nan'", ""),
    "sample=awq:keep=yes": (
        (1, "sample=awq:keep=yes"),
        "the option 'keep' of 'sample' is true or false, not 'yes'",
        "",
    ),
    "sample=awq:layers=1++2": (
        (1, "sample=awq:layers=1++2"),
        "the option 'layers' of 'sample' is a list of items with a + between two of them, not '1++2'",
        "",
    ),
    "sample=awq:group": ((1, "sample=awq:group"), "the option 'group' of 'sample' needs a value: group=int", ""),
    "sample": ((1, "sample"), "the pass 'sample' needs a value: sample=awq|gptq", "hint: how to choose scales"),
    "cse,sample=awq:method=gptq": (
        (2, "sample=awq:method=gptq"),
        "the option 'method' of 'sample' is given twice",
        "",
    ),
    "fold, ,cse": ((2, ""), "the name of a pass is missing", "hint: passes are separated by single commas"),
    "fold, picky=3,cse": ((2, "picky=3"), "the pass 'picky' refuses its options: tp must be even", ""),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes(text: str) -> None:
    (number, stage), message, hint = MISTAKES[text]
    with pytest.raises(PassError) as caught:
        parse_pipeline(text)
    marker = " " * (text.index(stage) if stage else 6) + "^" * max(1, len(stage))
    lines = [f"pass {number} of the pipeline: {message}", f"  {text}", f"  {marker}", hint]
    assert str(caught.value) == "\n".join(filter(None, lines))


def test_description() -> None:
    info = find_pass("sample").as_json()
    assert info["summary"] == info["doc"] == "Has an option of every type."
    assert info["options"][:2] == [
        {
            "name": "method",
            "type": "awq|gptq",
            "required": True,
            "default": None,
            "help": "how to choose scales",
        },
        {"name": "group", "type": "int", "required": False, "default": "128", "help": "columns that share a scale"},
    ]
    assert [option["type"] for option in info["options"]][2:] == [
        "float",
        "bool",
        "bool",
        "str",
        "plain|very fancy",
        "|".join(dtype.value for dtype in DType),
        "float|none",
        "str|none",
        "int+...",
        "str+...",
        "path",
        "1|2",
        "int",
    ]
