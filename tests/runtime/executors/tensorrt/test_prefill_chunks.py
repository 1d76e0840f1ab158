"""How the tokens of a row are cut into chunks."""

from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.executors.tensorrt.prefill_chunks import cheapest_chunks


@dataclass(frozen=True)
class Plan:
    """A plan of certain ranges of tokens and logits."""

    width: tuple[int, int]
    logits: tuple[int, int]


def fixed(width, logits=1):
    return Plan((width, width), (logits, logits))


def widths(plans, count, wanted=()):
    return [chunk.width for chunk in cheapest_chunks(plans, count, wanted)]


PLANS = [fixed(32, 32), fixed(256, 256), fixed(2048)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (5, [32]),
        (32, [32]),
        (33, [256]),
        (256, [256]),
        (288, [32, 256]),
        (600, [256, 256, 256]),
        (2048, [2048]),
        (2049, [32, 2048]),
    ],
)
def test_few_runs_with_little_padding(count, expected) -> None:
    assert sorted(widths(PLANS, count, [count - 1])) == expected


def test_a_dynamic_plan_takes_what_there_is() -> None:
    chunks = cheapest_chunks([Plan((1, 100), (1, 100))], 250, [3, 120, 121])
    assert [(p.start, p.end, p.width, p.logits) for p in chunks] == [
        (0, 100, 100, 1),
        (100, 200, 100, 2),
        (200, 250, 50, 1),
    ]


def test_nothing_can_give_so_many_logits() -> None:
    assert cheapest_chunks([fixed(4)], 4, [0, 1]) == ()
    assert widths([fixed(4), fixed(1)], 4, [0, 1]) == [1, 4]


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(1, 300)).map(lambda p: fixed(p[0], min(p))), min_size=1, max_size=4
    ),
    st.integers(1, 80),
    st.data(),
)
def test_no_other_way_is_cheaper_and_everything_is_covered_once(plans, count, data) -> None:
    wanted = sorted(data.draw(st.sets(st.integers(0, count - 1), max_size=count)))

    def inside(start, end):
        return sum(start <= position < end for position in wanted)

    @cache
    def cheapest(start) -> float:
        if start == count:
            return 0
        ends = [(min(start + plan.width[1], count), plan) for plan in plans]
        ways = [256 + p.width[1] + cheapest(end) for end, p in ends if inside(start, end) <= p.logits[1]]
        return min(ways, default=float("inf"))

    chunks = cheapest_chunks(plans, count, wanted)
    if not chunks:
        assert cheapest(0) == float("inf")
        return
    assert sum(256 + chunk.width for chunk in chunks) == cheapest(0)
    assert [p.start for p in chunks] == [0, *(p.end for p in chunks[:-1])]
    assert chunks[-1].end == count
    for chunk in chunks:
        assert inside(chunk.start, chunk.end) <= chunk.logits
        assert chunk.end - chunk.start <= chunk.width
