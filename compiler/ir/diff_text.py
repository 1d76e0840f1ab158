"""A difference between graphs, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from compiler.ir.diff import GraphDiff, OpChange
from compiler.ir.op import Op
from compiler.ir.printer import format_op, sections


def format_diff(diff: GraphDiff, *, origins: bool = False) -> str:
    """The diff as text: lines marked `-` (before), `+` (after), `=` (renamed) or `~` (moved) under section headers.

    Args:
        diff: the diff.
        origins: whether to show ops of which only the origin differs, marked `o`.

    Returns:
        The text, ending with a newline; empty if there is nothing to show.
    """
    lines = []
    for was, now in diff.head:
        lines += [f"- {was}"] if was else []
        lines += [f"+ {now}"] if now else []
    entries = list(_entries(diff, origins))
    shown = 0
    for section in sections(op for op, _, _ in entries):
        lines += ["", "  " + section.header] if lines else ["  " + section.header]
        for op, mark, note in entries[shown : shown + len(section.ops)]:
            lines.append(f"{mark}   {format_op(op, section.scope)}{note}")
        shown += len(section.ops)
    return "\n".join(lines) + "\n" if lines else ""


_Entry = tuple[Op, str, str]


def _entries(diff: GraphDiff, origins: bool) -> Iterator[_Entry]:
    """What to show: an op, its mark, and a note; in the second graph's order, removed ops after what preceded them."""
    entries: dict[str, list[_Entry]] = {op.name: [(op, "+", "")] for op in diff.added}
    pairs = [*diff.changed, *diff.renamed, *(diff.origins if origins else ())]
    for change in pairs:
        entries[change.after.name] = list(_change_entries(change))
    for op in diff.moved:
        entries.setdefault(op.name, []).append((op, "~", "  # moved"))
    new_name = {change.before.name: change.after.name for change in pairs}
    first, following = _removed_by_anchor(diff, new_name)
    yield from first
    for op in diff.after.ops:
        yield from entries.get(op.name, ())
        yield from following.get(op.name, ())


def _change_entries(change: OpChange) -> Iterable[_Entry]:
    before, after = change.before, change.after
    if change.what == ("origin",):
        return [(after, "o", f"  # from {after.origin}; was from {before.origin}")]
    if set(change.what) <= {"name", "origin"}:
        return [(after, "=", f"  # was %{before.name}")]
    return [(before, "-", ""), (after, "+", "")]


def _removed_by_anchor(diff: GraphDiff, new_name: Mapping[str, str]) -> tuple[list[_Entry], dict[str, list[_Entry]]]:
    """The removed ops before every kept one, and those that follow each kept op, by its new name."""
    removed = {op.name for op in diff.removed}
    first: list[_Entry] = []
    following: dict[str, list[_Entry]] = {}
    current = first
    for op in diff.before.ops:
        if op.name in removed:
            current.append((op, "-", ""))
        else:
            current = following.setdefault(new_name.get(op.name, op.name), [])
    return first, following
