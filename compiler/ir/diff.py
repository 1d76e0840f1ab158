"""What differs between two graphs, by the names of their values, and how text shows it.

Names come from the module path and are not numbered, so an op that a pass inserts leaves the names of the others alone,
and a diff by name shows that op only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compiler.ir.folding import Folded, Form, fold, numberless_text, op_form
from compiler.ir.graph import Graph
from compiler.ir.literals import attr_text, name_text, quote
from compiler.ir.op import Op
from compiler.ir.printer import format_op, left_out, sections


@dataclass(frozen=True)
class OpChange:
    """An op of both graphs that differs.

    Attributes:
        before: the op in the first graph.
        after: the op in the second.
        what: what differs, of `kind`, `operands`, `attributes`, `results`, `types`, `name` and `origin`. With `name`
            alone (and perhaps `origin`) the op was renamed.
    """

    before: Op
    after: Op
    what: tuple[str, ...]


@dataclass(frozen=True)
class GraphDiff:
    """The differences between two graphs; each tuple is in the order of the graph it is taken from.

    Attributes:
        before: the first graph.
        after: the second graph.
        head: `(line before, line after)` for each line of the text form that is not an op's and differs; an empty
            string where there is none.
        added: ops of the second graph only.
        removed: ops of the first graph only.
        changed: ops of one name whose kind, operands, attributes or results differ.
        renamed: ops that differ in their name and nothing else.
        moved: ops of the second graph that stand elsewhere among the ops of both: the fewest that explain the order.
        origins: ops that differ in their origin and nothing else.
    """

    before: Graph
    after: Graph
    head: tuple[tuple[str, str], ...]
    added: tuple[Op, ...]
    removed: tuple[Op, ...]
    changed: tuple[OpChange, ...]
    renamed: tuple[OpChange, ...]
    moved: tuple[Op, ...]
    origins: tuple[OpChange, ...]

    @property
    def empty(self) -> bool:
        """Whether the graphs are the same but for origins."""
        return not (self.head or self.added or self.removed or self.changed or self.renamed or self.moved)


def diff_graphs(before: Graph, after: Graph) -> GraphDiff:
    """Compare two graphs. Ops pair up by the name of their first result; of the rest, renamed ops where that is plain.

    A renamed op is one with the same kind, operands (renamed or not), attributes and types; among several such, the one
    with the same name in another scope.
    """
    old_ops = {op.name: op for op in before.ops}
    new_ops = {op.name: op for op in after.ops}
    names, origin_of_new = _pair(before, after, old_ops, new_ops)
    changed, renamed, origins = [], [], []
    for new_name, old_name in origin_of_new.items():
        old, new = old_ops[old_name], new_ops[new_name]
        what = _differences(old, new, names)
        if {"kind", "operands", "attributes", "results", "types"} & set(what):
            changed.append(OpChange(old, new, what))
        elif "name" in what:
            renamed.append(OpChange(old, new, what))
        elif what:
            origins.append(OpChange(old, new, what))
    kept = set(origin_of_new.values())
    return GraphDiff(
        before,
        after,
        tuple(_head(before, after, names)),
        tuple(op for op in after.ops if op.name not in origin_of_new),
        tuple(op for op in before.ops if op.name not in kept),
        tuple(changed),
        tuple(renamed),
        tuple(_moved(before, after, origin_of_new)),
        tuple(origins),
    )


def _pair(
    before: Graph, after: Graph, old_ops: Mapping[str, Op], new_ops: Mapping[str, Op]
) -> tuple[dict[str, str], dict[str, str]]:
    """The new name → old name of every renamed value, and of every op in both graphs, in the new graph's order."""
    candidates: dict[Any, list[Op]] = {}
    for op in before.ops:
        if op.name not in new_ops:
            candidates.setdefault(_signature(op, {}), []).append(op)
    names: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for op in after.ops:
        if op.name in old_ops:
            pairs[op.name] = op.name
            continue
        # Operands come before their users, so theirs are known to be renamed by now.
        equal = candidates.get(_signature(op, names), [])
        if len(equal) > 1:
            equal = [old for old in equal if _local(old.name) == _local(op.name)]
        if len(equal) != 1:
            continue
        old = equal[0]
        candidates[_signature(old, {})].remove(old)
        pairs[op.name] = old.name
        names |= {new.name: was.name for new, was in zip(op.results, old.results, strict=True)}
    return names, pairs


def _local(name: str) -> str:
    return name.rpartition(".")[2]


def _signature(op: Op, names: Mapping[str, str]) -> Any:
    """Equal for ops that compute the same, given the old names of renamed operands."""
    operands = tuple([names.get(value.name, value.name) for value in op.operands])
    return op.kind.name, operands, _attrs(op), tuple([value.type for value in op.results])


def _attrs(op: Op) -> tuple[str, ...]:
    # Texts tell 1 from 1.0 and -0.0 from 0.0, and hold a not-a-number equal to itself.
    return tuple([f"{name}={attr_text(value)}" for name, value in op.attrs.items()])


def _differences(old: Op, new: Op, names: Mapping[str, str]) -> tuple[str, ...]:
    if old is new:
        return ()
    same = {
        "kind": old.kind is new.kind,
        "operands": [v.name for v in old.operands] == [names.get(v.name, v.name) for v in new.operands],
        "attributes": _attrs(old) == _attrs(new),
        "results": [v.name for v in old.results] == [names.get(v.name, v.name) for v in new.results],
        "types": [v.type for v in old.results] == [v.type for v in new.results],
        "name": old.name == new.name,
        "origin": old.origin == new.origin,
    }
    return tuple(what for what, holds in same.items() if not holds)


def _moved(before: Graph, after: Graph, pairs: Mapping[str, str]) -> Iterator[Op]:
    """The ops outside a longest run of shared ops that both graphs have in one order."""
    position = {op.name: i for i, op in enumerate(before.ops)}
    shared = [op for op in after.ops if op.name in pairs]
    places = [position[pairs[op.name]] for op in shared]
    steady = _longest_increasing(places)
    return (op for op, place in zip(shared, places, strict=True) if place not in steady)


def _longest_increasing(numbers: list[int]) -> set[int]:
    """The members of a longest increasing subsequence of distinct numbers, by patience sorting."""
    tops: list[int] = []  # the least number that ends a subsequence of each length
    below: dict[int, int | None] = {}
    for number in numbers:
        pile = bisect_left(tops, number)
        below[number] = tops[pile - 1] if pile else None
        tops[pile : pile + 1] = [number]
    members = set()
    last = tops[-1] if tops else None
    while last is not None:
        members.add(last)
        last = below[last]
    return members


def _head(before: Graph, after: Graph, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    old, new = _head_lines(before, {}), _head_lines(after, names)
    for key in dict.fromkeys((*old, *new)):
        (was, meant), (line, means) = old.get(key, ("", "")), new.get(key, ("", ""))
        if meant != means:
            yield was, line
    orders = [[value.name for value in graph.inputs] for graph in (before, after)]
    if orders[0] != orders[1] and set(orders[0]) == set(orders[1]):
        yield f"inputs in the order {', '.join(orders[0])}", f"inputs in the order {', '.join(orders[1])}"


def _head_lines(graph: Graph, names: Mapping[str, str]) -> dict[tuple[str, str], tuple[str, str]]:
    """For each thing that is not an op: its line, and the line with the old names of renamed values."""
    lines = {("graph", ""): f"graph {name_text(graph.name)}", ("root", ""): f"root {quote(graph.root)}"}
    lines |= {("facts", k): f"fact {name_text(k)} = {attr_text(v)}" for k, v in graph.facts.items()}
    lines |= {("dims", k): f"dim {k} = {low}..{opt}..{high}" for k, (low, opt, high) in graph.dims.items()}
    lines |= {("inputs", v.name): f"input {name_text(v.name)}: {v.type}" for v in graph.inputs}
    both = {key: (line, line) for key, line in lines.items()}
    for role, value in graph.outputs.items():
        forms = [f"output {name_text(role)} = %{name_text(n)}" for n in (value.name, names.get(value.name, value.name))]
        both["outputs", role] = (forms[0], forms[1])
    return both


_Entry = tuple[Op, str, str]


def format_diff(diff: GraphDiff, *, origins: bool = False, fold_layers: bool = False) -> str:
    """The diff as text: lines marked `-` (before), `+` (after), `=` (renamed) or `~` (moved) under section headers.

    Args:
        diff: the diff.
        origins: whether to show ops of which only the origin differs, marked `o`.
        fold_layers: whether to leave out layers in which the same differs as in the one before them.

    Returns:
        The text, ending with a newline; empty if there is nothing to show.
    """
    lines = []
    for head in _folded_head(diff.head, fold_layers):
        for was, now in head.shown:
            lines += [f"- {was}"] if was else []
            lines += [f"+ {now}"] if now else []
        lines += left_out(head.like)
    entries = list(_entries(diff, origins))
    for folded in fold(entries, _entry_name, _entry_form) if fold_layers else [Folded(entries)]:
        shown = 0
        for section in sections(op for op, _, _ in folded.shown):
            lines += ["", "  " + section.header] if lines else ["  " + section.header]
            for op, mark, note in folded.shown[shown : shown + len(section.ops)]:
                lines.append(f"{mark}   {format_op(op, section.scope)}{note}")
            shown += len(section.ops)
        lines += ["", *left_out(folded.like)] if folded.like else []
    return "\n".join(lines) + "\n" if lines else ""


def _folded_head(head: Sequence[tuple[str, str]], fold_layers: bool) -> Iterable[Folded[tuple[str, str]]]:
    return fold(head, _head_name, _head_form) if fold_layers else [Folded(head)]


def _head_name(lines: tuple[str, str]) -> str:
    """The name that a line of the head gives: `cache.0.k` of `input cache.0.k: f16[B,4,C,64]`."""
    _, _, rest = (lines[1] or lines[0]).partition(" ")
    return rest.split(" ")[0].rstrip(":")


def _head_form(lines: tuple[str, str], number: int) -> Form:
    return Form(tuple(numberless_text(line, number) for line in lines))


def _entry_name(entry: _Entry) -> str:
    return entry[0].name


def _entry_form(entry: _Entry, number: int) -> Form:
    op, mark, note = entry
    said, taken, given = op_form(op, number)
    return Form((mark, numberless_text(note, number), said), taken, given)


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
