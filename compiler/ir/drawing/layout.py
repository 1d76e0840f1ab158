"""A layered layout of a small directed graph: ranks from top to bottom, few crossings, short ways.

The method is that of Sugiyama, Tagawa and Toda (1981): ranks by longest paths, an order within each rank by the means
of neighbours, and then places that are as near to the neighbours' as the order allows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]
Edge = tuple[str, str]

GAP_X, GAP_Y = 22.0, 30.0
_ORDER_SWEEPS, _PLACE_SWEEPS, _LAST_SWEEPS = 8, 24, 6


@dataclass
class Layout:
    """Where things are, from the upper left corner, in pixels.

    Attributes:
        centres: the middle of each node.
        routes: the points of each edge, from its source's lower border to its target's upper one.
        width: of the whole.
        height: of the whole.
    """

    centres: dict[str, Point] = field(default_factory=dict)
    routes: dict[Edge, list[Point]] = field(default_factory=dict)
    width: float = 0
    height: float = 0


def layered(
    sizes: Mapping[str, tuple[float, float]],
    edges: Iterable[Edge],
    *,
    first: Iterable[str] = (),
    last: Iterable[str] = (),
) -> Layout:
    """Lay nodes out in ranks.

    Args:
        sizes: width and height of each node, in an order in which most edges go forward.
        edges: pairs of different nodes; one that goes backward is drawn upward.
        first: nodes that stand above all others.
        last: nodes that stand below all others.
    """
    if not sizes:
        return Layout()
    position = {name: i for i, name in enumerate(sizes)}
    unique = list(dict.fromkeys(edges))
    down = {(a, b): (a, b) if position[a] < position[b] else (b, a) for a, b in unique}
    rank = _ranks(list(sizes), set(down.values()), set(first), set(last))
    boxes, links, chains = _with_dummies(sizes, set(down.values()), rank)
    rows = _ordered(rank, links)
    x = _placed(rows, boxes, links)
    return _assembled(sizes, boxes, rows, x, {edge: (chains[way], way != edge) for edge, way in down.items()})


def _ranks(names: Sequence[str], edges: set[Edge], first: set[str], last: set[str]) -> dict[str, int]:
    """The longest way to each node; a node without sources stands just above its users."""
    before: dict[str, list[str]] = {name: [] for name in names}
    after: dict[str, list[str]] = {name: [] for name in names}
    for a, b in sorted(edges):
        before[b].append(a)
        after[a].append(b)
    rank: dict[str, int] = {}
    for name in names:
        least = 0 if name in first or not first else 1
        rank[name] = max([least, *(rank[a] + 1 for a in before[name])])
    for name in names:
        if not before[name] and after[name] and name not in first:
            rank[name] = min(rank[b] for b in after[name]) - 1
    bottom = max(rank[name] for name in names if name not in last) + 1 if set(names) - last else 0
    return {name: bottom if name in last else rank[name] for name in names}


def _with_dummies(
    sizes: Mapping[str, tuple[float, float]], edges: set[Edge], rank: dict[str, int]
) -> tuple[dict[str, tuple[float, float]], list[Edge], dict[Edge, list[str]]]:
    """Nodes and edges in which an edge over several ranks is a chain; adds to `rank`."""
    boxes = dict(sizes)
    links: list[Edge] = []
    chains: dict[Edge, list[str]] = {}
    for a, b in sorted(edges):
        chain = [a]
        for at in range(rank[a] + 1, rank[b]):
            dummy = f"{a}\n{b}\n{at}"
            rank[dummy], boxes[dummy] = at, (1.0, 0.0)
            chain.append(dummy)
        chain.append(b)
        links += itertools.pairwise(chain)
        chains[a, b] = chain
    return boxes, links, chains


def _ordered(rank: Mapping[str, int], links: Sequence[Edge]) -> list[list[str]]:
    """The nodes of each rank from left to right: swept down and up, each by the mean place of its neighbours."""
    rows: list[list[str]] = [[] for _ in range(max(rank.values()) + 1)]
    for name, at in rank.items():
        rows[at].append(name)
    above, below = _neighbours(rank, links)
    for sweep in range(_ORDER_SWEEPS):
        near = below if sweep % 2 else above
        for row in reversed(rows) if sweep % 2 else rows:
            place = {name: i for other in rows for i, name in enumerate(other)}
            row.sort(key=lambda name: _mean([place[n] for n in near[name]], place[name]))
    return rows


def _neighbours(names: Iterable[str], links: Sequence[Edge]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {name: [] for name in names}
    below: dict[str, list[str]] = {name: [] for name in above}
    for a, b in links:
        above[b].append(a)
        below[a].append(b)
    return above, below


def _mean(numbers: Sequence[float], otherwise: float) -> float:
    return sum(numbers) / len(numbers) if numbers else otherwise


def _placed(
    rows: Sequence[Sequence[str]], boxes: Mapping[str, tuple[float, float]], links: Sequence[Edge]
) -> dict[str, float]:
    """The middle of each node across, near its neighbours', in order and without overlaps."""
    above, below = _neighbours(boxes, links)
    x = dict.fromkeys(boxes, 0.0)
    for sweep in range(_PLACE_SWEEPS):
        near = below if sweep % 2 else above
        if sweep >= _PLACE_SWEEPS - _LAST_SWEEPS:
            near = {name: above[name] + below[name] for name in boxes}
        for row in reversed(rows) if sweep % 2 else rows:
            wished = [_mean([x[n] for n in near[name]], x[name]) for name in row]
            x.update(zip(row, _apart(wished, [boxes[name][0] for name in row]), strict=True))
    return x


def _apart(wished: Sequence[float], widths: Sequence[float]) -> list[float]:
    """The places nearest to those wished, by least squares, at which boxes of these widths keep order and distance.

    It is isotonic regression, by pooling neighbours that are in each other's way.
    """
    offsets = [0.0]
    for left, right in itertools.pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2 + GAP_X)
    pools: list[tuple[float, int]] = []  # mean and count
    for wish, offset in zip(wished, offsets, strict=True):
        mean, count = wish - offset, 1
        while pools and pools[-1][0] > mean:
            other, size = pools.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        pools.append((mean, count))
    settled = [mean for mean, count in pools for _ in range(count)]
    return [base + offset for base, offset in zip(settled, offsets, strict=True)]


def _assembled(
    sizes: Mapping[str, tuple[float, float]],
    boxes: Mapping[str, tuple[float, float]],
    rows: Sequence[Sequence[str]],
    x: Mapping[str, float],
    ways: Mapping[Edge, tuple[Sequence[str], bool]],
) -> Layout:
    left = min(x[name] - boxes[name][0] / 2 for name in boxes)
    layout = Layout(width=max(x[name] + boxes[name][0] / 2 for name in boxes) - left)
    middle: dict[str, float] = {}
    half: dict[str, float] = {}
    for row in rows:
        height = max((boxes[name][1] for name in row), default=0)
        middle |= dict.fromkeys(row, layout.height + height / 2)
        half |= dict.fromkeys(row, height / 2)
        layout.height += height + GAP_Y
    layout.height -= GAP_Y
    layout.centres = {name: (x[name] - left, middle[name]) for name in sizes}
    for edge, (chain, reverse) in ways.items():
        first, *through, end = chain
        points = [(x[first] - left, middle[first] + boxes[first][1] / 2)]
        for name in through:  # straight past what stands in its rank
            points += [(x[name] - left, middle[name] - half[name]), (x[name] - left, middle[name] + half[name])]
        points.append((x[end] - left, middle[end] - boxes[end][1] / 2))
        layout.routes[edge] = points[::-1] if reverse else points
    return layout
