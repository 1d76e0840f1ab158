"""Layers of boxes: what every layout must hold, on graphs drawn at random, and what it should hold on plain ones."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.ir.drawing.layout import GAP_X, layered


@st.composite
def networks(draw):
    count = draw(st.integers(1, 12))
    names = [f"n{i}" for i in range(count)]
    sizes = {name: (draw(st.integers(10, 90)), draw(st.integers(10, 50))) for name in names}
    pairs = st.tuples(st.sampled_from(names), st.sampled_from(names)).filter(lambda pair: pair[0] != pair[1])
    return sizes, draw(st.lists(pairs, max_size=20)) if count > 1 else []


@given(networks())
def test_boxes_lie_apart_and_within_the_whole(network):
    sizes, edges = network
    layout = layered(sizes, edges)
    assert set(layout.centres) == set(sizes)
    for name, (x, y) in layout.centres.items():
        assert sizes[name][0] / 2 - 1e-6 <= x <= layout.width - sizes[name][0] / 2 + 1e-6
        assert sizes[name][1] / 2 - 1e-6 <= y <= layout.height - sizes[name][1] / 2 + 1e-6
    for a, b in combinations(sizes, 2):
        (ax, ay), (bx, by) = layout.centres[a], layout.centres[b]
        wide, high = (sizes[a][0] + sizes[b][0]) / 2, (sizes[a][1] + sizes[b][1]) / 2
        assert abs(ax - bx) >= wide + GAP_X - 1e-6 or abs(ay - by) >= high


@given(networks())
def test_every_edge_goes_from_one_border_to_the_other(network):
    sizes, edges = network
    layout = layered(sizes, edges)
    assert set(layout.routes) == set(edges)
    order = list(sizes)
    for (a, b), route in layout.routes.items():
        forward = order.index(a) < order.index(b)
        way = route if forward else route[::-1]
        upper, lower = (a, b) if forward else (b, a)
        assert way[0] == pytest.approx((layout.centres[upper][0], layout.centres[upper][1] + sizes[upper][1] / 2))
        assert way[-1] == pytest.approx((layout.centres[lower][0], layout.centres[lower][1] - sizes[lower][1] / 2))
        assert all(p[1] <= q[1] for p, q in pairwise(way))


def test_a_chain_is_straight():
    layout = layered(dict.fromkeys("abc", (40, 20)), [("a", "b"), ("b", "c")])
    assert len({round(x, 3) for x, _ in layout.centres.values()}) == 1


def test_branches_do_not_cross():
    sizes = dict.fromkeys(["a", "l", "r", "ll", "rr"], (40, 20))
    layout = layered(sizes, [("a", "r"), ("a", "l"), ("l", "ll"), ("r", "rr")])
    assert (layout.centres["l"][0] < layout.centres["r"][0]) == (layout.centres["ll"][0] < layout.centres["rr"][0])


def test_what_is_first_or_last_stands_alone_above_or_below():
    sizes = dict.fromkeys(["in", "a", "b", "out"], (40, 20))
    y = {
        name: at[1]
        for name, at in layered(sizes, [("in", "b"), ("a", "out")], first=["in"], last=["out"]).centres.items()
    }
    assert y["in"] < min(y["a"], y["b"])
    assert y["out"] > max(y["a"], y["b"])


def test_an_input_stands_just_above_its_user():
    sizes = dict.fromkeys(["late", "a", "b", "c"], (40, 20))
    y = {name: at[1] for name, at in layered(sizes, [("a", "b"), ("b", "c"), ("late", "c")]).centres.items()}
    assert y["late"] == y["b"]


def test_nothing_has_no_size():
    assert (layered({}, []).width, layered({}, []).height) == (0, 0)
