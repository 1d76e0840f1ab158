"""The boxes and arrows of a still picture: a graph of which some groups are open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from compiler.errors import GraphError
from compiler.ir.analysis import constant_values
from compiler.ir.drawing.layout import Point, layered
from compiler.ir.drawing.outline import Outline, group_label, outline
from compiler.ir.drawing.work import weights_of
from compiler.ir.frozen import EMPTY
from compiler.ir.graph import Graph
from compiler.sizes import bytes_text
from compiler.suggest import did_you_mean

ALL = "all"
TITLE_HEIGHT, PAD, BOX_HEIGHT = 26.0, 16.0, 42.0
_TITLE_CHARACTER, _TEXT_CHARACTER = 7.4, 6.4  # the width of one, on average, at the sizes of `svg`
_ABOVE, _BELOW = "in", "out"


@dataclass(eq=False)
class Box:
    """An op, an input, an output, or a group.

    Attributes:
        name: the op's name, or the group's.
        title: what it is called where it stands.
        text: its kind and type; what is in a group.
        dtype: the element type that colours it; empty for groups, inputs and outputs.
        parent: the open group that it stands in.
        children: what stands in it, if it is an open group.
        inside: how many ops are in a group.
        weights: bytes of the weights that they read.
        marks: how the op, or how many ops of the group, differ from another graph's.
        corner: its upper left corner.
        size: width and height.
    """

    name: str
    title: str = ""
    text: str = ""
    dtype: str = ""
    parent: Box | None = None
    children: list[Box] = field(default_factory=list)
    is_open: bool = False
    is_group: bool = False
    inside: int = 0
    weights: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    corner: Point = (0, 0)
    size: tuple[float, float] = (0, 0)
    routes: dict[tuple[str, str], list[Point]] = field(default_factory=dict)

    def around(self) -> list[Box]:
        """The boxes that it stands in, the outermost first, and itself."""
        return [*(self.parent.around() if self.parent else []), self]


@dataclass
class Scene:
    """A picture: the outermost box, and the points of each arrow."""

    root: Box
    arrows: list[list[Point]]


def scene(graph: Graph, *, opened: Collection[str] | None = None, marks: Mapping[str, str] = EMPTY) -> Scene:
    """The picture of a graph. Weights, what is computed from them, and caches are left out.

    Args:
        graph: the graph.
        opened: the groups to open, with those around them; `all` opens every one. None opens nothing but a layer that
            others are like.
        marks: how ops differ from those of another graph, by name.

    Raises:
        GraphError: if there is no such group.
    """
    groups = outline(graph)
    where, root = _boxes(graph, groups, _opened(groups, opened), marks)
    edges = _edges(graph, where)
    ports: dict[int, _Inside] = {}
    plans = [_plan(a, b, ports) for a, b in edges]
    _lay_out(root, ports)
    _settle(root, (0, 0))
    return Scene(root, [_arrow(plan) for plan in plans])


def _opened(groups: Outline, wanted: Collection[str] | None) -> set[str]:
    known = {group for path in groups.paths for group in path}
    if wanted is None:
        return {group for group in known if group in set(groups.alike.values())}
    if ALL in wanted:
        return known
    for group in wanted:
        if group not in known:
            raise GraphError(f"there is no group {group!r} to open{did_you_mean(group, known)}", hint=_hint(known))
    return {
        outer for path in groups.paths for i, group in enumerate(path) if group in wanted for outer in path[: i + 1]
    }


def _hint(known: set[str]) -> str:
    outermost = sorted(group for group in known if "." not in group or group.rpartition(".")[2].isdecimal())
    return f"groups are scopes of names: {', '.join(outermost[:12])}{', ...' if len(outermost) > 12 else ''}; or {ALL}"


def _boxes(graph: Graph, groups: Outline, opened: set[str], marks: Mapping[str, str]) -> tuple[dict[str, Box], Box]:
    """The visible box of each value, and the outermost box. A group of one is replaced by that one."""
    root = Box("", is_open=True, is_group=True)
    made, where, constant, states = {"": root}, {}, constant_values(graph), graph.states()
    placed: set[Box] = set()
    for value in graph.inputs:
        if value.name not in states:
            box = Box(value.name, value.name, f"input {value.type}", parent=root)
            where[value.name] = box
            root.children.append(box)
    for op, path, weights in zip(graph.ops, groups.paths, weights_of(graph), strict=True):
        inner = root
        for group in path:
            if group not in made:
                made[group] = Box(group, parent=inner, is_group=True, is_open=group in opened)
            inner = made[group]
            inner.inside, inner.weights = inner.inside + 1, inner.weights + weights
            inner.marks.update([marks[op.name]] if op.name in marks else [])
        if all(value.name in constant for value in op.results):
            continue
        types = ", ".join(str(value.type) for value in op.results)
        box = Box(op.name, op.name, f"{op.kind.name} {types}", op.results[0].type.dtype.value, inner)
        box.marks.update([marks[op.name]] if op.name in marks else [])
        for member in reversed(box.around()):
            if member in placed or member.parent is None:
                break
            placed.add(member)
            member.parent.children.append(member)
        where |= {value.name: box for value in op.results}
    for role, value in graph.outputs.items():
        if role not in states:
            root.children.append(Box(f"output:{role}", role, f"output {value.type}", parent=root))
            where[f"output:{role}"] = root.children[-1]
    _simplify(root, groups)
    return {name: _visible(box) for name, box in where.items()}, root


def _simplify(group: Box, groups: Outline) -> None:
    for i, child in enumerate(group.children):
        while child.is_group and len(child.children) == 1 and not child.name.rpartition(".")[2].isdecimal():
            child = child.children[0]
        child.parent = group
        group.children[i] = child
        if child.is_group:
            _simplify(child, groups)
            child.title = group_label(child.name, group.name, groups.alike)
            child.text = f"{child.inside} ops{f', {bytes_text(child.weights)}' if child.weights else ''}"
        elif group.name and child.name.startswith(group.name + "."):
            child.title = child.name[len(group.name) + 1 :]


def _visible(box: Box) -> Box:
    """The box itself, or the outermost closed group around it."""
    return next((outer for outer in box.around() if outer.is_group and not outer.is_open), box)


def _edges(graph: Graph, where: Mapping[str, Box]) -> list[tuple[Box, Box]]:
    uses = [(value.name, op.name) for op in graph.ops for value in op.operands]
    uses += [(value.name, f"output:{role}") for role, value in graph.outputs.items()]
    pairs = ((where[a], where[b]) for a, b in uses if a in where and b in where)
    return list({(id(a), id(b)): (a, b) for a, b in pairs if a is not b}.values())


@dataclass
class _Inside:
    """What arrows need inside an open group: edges of its layout, and the ports where they cross its border."""

    edges: list[tuple[str, str]] = field(default_factory=list)
    above: dict[str, None] = field(default_factory=dict)
    below: dict[str, None] = field(default_factory=dict)


@dataclass
class _Plan:
    """The parts of an arrow, each a group and an edge of its layout; `level` is the part between siblings."""

    parts: list[tuple[Box, tuple[str, str]]]
    level: int


def _plan(a: Box, b: Box, ports: dict[int, _Inside]) -> _Plan:
    """How an arrow goes: through the groups around its source, between siblings, through those around its target."""
    source, target = a.around(), b.around()
    depth = 0
    while source[depth + 1] is target[depth + 1]:
        depth += 1
    parts: list[tuple[Box, tuple[str, str]]] = []
    for i in range(len(source) - 2, depth, -1):
        port = f"{_BELOW}:{a.name}"
        ports.setdefault(id(source[i]), _Inside()).below[port] = None
        parts.append((source[i], (source[i + 1].name, port)))
    parts.append((source[depth], (source[depth + 1].name, target[depth + 1].name)))
    for i in range(depth + 1, len(target) - 1):
        port = f"{_ABOVE}:{a.name}"
        ports.setdefault(id(target[i]), _Inside()).above[port] = None
        parts.append((target[i], (port, target[i + 1].name)))
    for group, edge in parts:
        ports.setdefault(id(group), _Inside()).edges.append(edge)
    return _Plan(parts, len(source) - 2 - depth)


def _lay_out(group: Box, ports: Mapping[int, _Inside]) -> None:
    """Give the boxes of a group places relative to it, from the inside out, and the group its size."""
    inside = ports.get(id(group), _Inside())
    for child in group.children:
        if child.is_open:
            _lay_out(child, ports)
        else:
            child.size = (_text_width(child), BOX_HEIGHT)
    sizes = {**dict.fromkeys(inside.above, (1.0, 0.0)), **{child.name: child.size for child in group.children},
             **dict.fromkeys(inside.below, (1.0, 0.0))}  # fmt: skip
    layout = layered(sizes, inside.edges, first=inside.above, last=inside.below)
    outer = group.parent is not None
    pad, title = (PAD, TITLE_HEIGHT if inside.above else TITLE_HEIGHT + 8) if outer else (0.0, 0.0)
    bottom = pad if not inside.below else 0
    for child in group.children:
        x, y = layout.centres[child.name]
        child.corner = (x - child.size[0] / 2 + pad, y - child.size[1] / 2 + title)
    group.routes = {edge: [(x + pad, y + title) for x, y in points] for edge, points in layout.routes.items()}
    group.size = (max(layout.width + 2 * pad, _text_width(group) if outer else 0), layout.height + title + bottom)


def _text_width(box: Box) -> float:
    marks = 28 * len(box.marks) if box.is_group else 14 * bool(box.marks)
    title = len(box.title) * _TITLE_CHARACTER + marks + (16 if box.is_group else 0)
    return max(96.0, title + 22, len(box.text) * _TEXT_CHARACTER + 22)


def _settle(group: Box, corner: Point) -> None:
    group.corner = corner
    for child in group.children:
        at = (corner[0] + child.corner[0], corner[1] + child.corner[1])
        if child.is_open:
            _settle(child, at)
        else:
            child.corner = at


def _arrow(plan: _Plan) -> list[Point]:
    points: list[Point] = []
    for i, (group, edge) in enumerate(plan.parts):
        part = [(x + group.corner[0], y + group.corner[1]) for x, y in group.routes[edge]]
        # At the border of an open group a way ends at the group's port, not in the middle.
        begins, ends = i == 0 or i > plan.level, i == len(plan.parts) - 1 or i < plan.level
        points += part[0 if begins else 1 : None if ends else -1]
    return points


def boxes_of(group: Box) -> Iterator[Box]:
    """The boxes in an open group, those that stand in others after those."""
    for child in group.children:
        yield child
        if child.is_open:
            yield from boxes_of(child)
