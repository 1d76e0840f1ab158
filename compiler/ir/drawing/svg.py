"""Still pictures of graphs as SVG, laid out without a browser."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape

from compiler.ir.diff import GraphDiff
from compiler.ir.drawing.colours import DTYPE_COLOURS, MARK_COLOURS, MARK_SIGNS
from compiler.ir.drawing.layout import Point
from compiler.ir.drawing.scene import Box, Scene, boxes_of, scene
from compiler.ir.graph import Graph

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARGIN, _GAP, _HEAD, _LEGEND = 20.0, 48.0, 30.0, 34.0
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
# The light colours are attributes, so that every program shows them; browsers on dark pages take these instead.
_DARK = """<style>@media (prefers-color-scheme: dark) {
.page{fill:#14171c}.group{fill:#20252e;stroke:#475062}.open{fill:#20252e;fill-opacity:.5;stroke:#475062}
.end{fill:#14171c;stroke:#98a2b3}.light{fill:#e4e8ef}.muted{fill:#98a2b3}.edge{stroke:#677084}.tip{fill:#677084}
}</style>
"""


def svg(
    graph: Graph, *, opened: Collection[str] | None = None, label: str = "", dark: bool = True, legend: bool = True
) -> str:
    """A picture of a graph: see `compiler.ir.drawing.scene.scene` for what it shows.

    Args:
        graph: the graph.
        opened: the groups to open; None opens a layer that others are like.
        label: what stands above it; nothing if empty.
        dark: whether to hold colours for dark pages, too. They come with a style sheet, which would act on the whole
            of a page that the picture is a part of.
        legend: whether to say what the colours mean.
    """
    return _document([(label, scene(graph, opened=opened))], dark=dark, legend=legend)


def svg_of_diff(diff: GraphDiff, labels: tuple[str, str], *, opened: Collection[str] | None = None) -> str:
    """Two graphs side by side, with what differs marked.

    Args:
        diff: the graphs and what differs.
        labels: what stands above each.
        opened: the groups to open in both; see `svg`.
    """
    before, after = marks_of(diff)
    both = [(diff.before, before), (diff.after, after)]
    scenes = [scene(graph, opened=opened, marks=marks) for graph, marks in both]
    return _document(list(zip(labels, scenes, strict=True)), dark=True, legend=True, marked=True)


def marks_of(diff: GraphDiff) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """How the ops of each graph differ, by name: `added`, `removed`, `changed`, `renamed` or `moved`."""
    before = {change.before.name: "renamed" for change in diff.renamed}
    before |= {change.before.name: "changed" for change in diff.changed}
    before |= {op.name: "removed" for op in diff.removed}
    after = {op.name: "moved" for op in diff.moved}
    after |= {change.after.name: "renamed" for change in diff.renamed}
    after |= {change.after.name: "changed" for change in diff.changed}
    after |= {op.name: "added" for op in diff.added}
    return before, after


def _document(scenes: Sequence[tuple[str, Scene]], *, dark: bool, legend: bool, marked: bool = False) -> str:
    head = _HEAD if any(label for label, _ in scenes) else 0.0
    parts, x, height = [], _MARGIN, 0.0
    for label, each in scenes:
        parts.append(f'<g transform="translate({_n(x)},{_n(_MARGIN + head)})">')
        if label:
            parts.append(_text(0, -14, label, size=14, bold=True, css="light"))
        parts += [*_drawn(each), "</g>"]
        x += max(each.root.size[0], len(label) * 9) + _GAP
        height = max(height, each.root.size[1])
    below = _MARGIN + head + height + 24
    keys = list(_legend([each for _, each in scenes], below, marked=marked)) if legend else []
    width = max(x - _GAP + _MARGIN, *(at for at, _ in keys), 200.0)
    total = below + (_LEGEND - 12 if keys else -4)
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(total)}"'
                f' viewBox="0 0 {_n(width)} {_n(total)}" font-family="{_FONT}">'
            ),
            *([_DARK.rstrip()] if dark else []),
            f'<rect class="page" width="{_n(width)}" height="{_n(total)}" rx="8" fill="#ffffff"/>',
            *parts,
            *(text for _, text in keys),
            "</svg>\n",
        ]
    )


def _drawn(each: Scene) -> Iterable[str]:
    boxes = list(boxes_of(each.root))
    for box in boxes:
        if box.is_open:
            yield from _open_group(box)
    for points in each.arrows:
        yield f'<path class="edge" d="{_curve(points)}" fill="none" stroke="#9aa3b2" stroke-width="1.2"/>'
        x, y = points[-1]
        yield f'<path class="tip" d="M{_n(x - 4)},{_n(y - 7)}h8L{_n(x)},{_n(y)}z" fill="#9aa3b2"/>'
    for box in boxes:
        if not box.is_open:
            yield from _box(box)


def _rect(box: Box, css: str, style: str, *, radius: float = 7, by: float = 0) -> str:
    (x, y), (width, height) = box.corner, box.size
    place = f'x="{_n(x + by)}" y="{_n(y + by)}" width="{_n(width)}" height="{_n(height)}" rx="{_n(radius)}"'
    return f'<rect class="{css}" {place} {style}/>'


def _open_group(box: Box) -> Iterable[str]:
    yield _rect(box, "open", 'fill="#eef1f6" fill-opacity="0.5" stroke="#b9c1ce"', radius=9)
    yield _text(box.corner[0] + 10, box.corner[1] + 17, box.title, bold=True, css="muted", fill="#646c7a")


def _box(box: Box) -> Iterable[str]:
    x, y = box.corner
    if box.is_group:
        style = 'fill="#eef1f6" stroke="#b9c1ce"'
        if ".." in box.name:
            yield from (_rect(box, "group", style, by=by) for by in (8, 4))
        yield _rect(box, "group", style)
    elif box.dtype:
        yield _rect(box, "op", f'fill="{DTYPE_COLOURS[box.dtype]}"')
    else:
        yield _rect(box, "end", 'fill="#ffffff" stroke="#646c7a"', radius=21)
    css = "ink" if box.dtype else "light"
    yield _text(x + 11, y + 18, f"{'+ ' if box.is_group else ''}{box.title}", bold=True, css=css)
    yield _text(x + 11, y + 34, box.text, size=11, css=css if box.dtype else "muted", fill="#3d434d")
    yield from _marks(box)


def _marks(box: Box) -> Iterable[str]:
    (x, y), (width, height) = box.corner, box.size
    right = x + width - 8
    for mark, count in box.marks.items():
        colour, text = MARK_COLOURS[mark], MARK_SIGNS[mark] + (str(count) if box.is_group else "")
        if not box.is_group:
            place = f'x="{_n(x - 3)}" y="{_n(y - 3)}" width="{_n(width + 6)}" height="{_n(height + 6)}" rx="9"'
            yield f'<rect {place} fill="none" stroke="{colour}" stroke-width="2.5"/>'
        yield _text(right, y + 17, text, bold=True, css="mark", fill=colour, end=True)
        right -= 10 + 8 * len(text)


def _legend(scenes: Sequence[Scene], y: float, *, marked: bool) -> Iterable[tuple[float, str]]:
    """Where each entry ends, and its text."""
    used = {box.dtype for each in scenes for box in boxes_of(each.root) if not box.is_open}
    x = _MARGIN
    for name, colour in DTYPE_COLOURS.items():
        if name in used:
            box = f'<rect x="{_n(x)}" y="{_n(y - 10)}" width="13" height="13" rx="3" fill="{colour}"/>'
            end = x + 18 + 7 * len(name)
            yield end + _MARGIN, box + _text(x + 18, y + 1, name, size=11, css="muted", fill="#646c7a")
            x = end + 16
    for mark, colour in MARK_COLOURS.items() if marked else ():
        text = f"{MARK_SIGNS[mark]} {mark}"
        end = x + 7 * len(text)
        yield end + _MARGIN, _text(x, y + 1, text, size=11, bold=True, css="mark", fill=colour)
        x = end + 16


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    bold: bool = False,
    css: str,
    fill: str = "#14181f",
    end: bool = False,
) -> str:
    weight = ' font-weight="600"' if bold else ""
    anchor = ' text-anchor="end"' if end else ""
    place = f'x="{_n(x)}" y="{_n(y)}" font-size="{size}"{weight}{anchor}'
    return f'<text class="{css}" {place} fill="{fill}">{xml_text(text)}</text>'


def xml_text(text: str) -> str:
    """A text as XML has it; characters that XML has no form for, such as most control characters, are replaced."""
    return escape(_NOT_XML.sub("\ufffd", text))


def _curve(points: Sequence[Point]) -> str:
    """A way through the points that leaves and arrives upright."""
    (x, y), *rest = points
    path = f"M {_n(x)},{_n(y)}"
    for nx, ny in rest:
        middle = (y + ny) / 2
        path += f" C {_n(x)},{_n(middle)} {_n(nx)},{_n(middle)} {_n(nx)},{_n(ny)}" if nx != x else f" V {_n(ny)}"
        x, y = nx, ny
    return path


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
