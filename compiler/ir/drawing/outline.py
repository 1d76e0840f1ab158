"""The groups that a picture folds: scopes of names, and runs of layers that are like one another."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from compiler.ir.folding import op_form
from compiler.ir.graph import Graph
from compiler.ir.op import Op


@dataclass(frozen=True)
class Outline:
    """The groups of a graph's ops.

    A group is a scope of names such as `layers.0.attn`, or a run of layers such as `layers.1..43`. A scope that is also
    the name of a value is none (`attn.q.heads` lies in `attn`, beside `attn.q`), and neither is one that only numbers
    layers (`layers`).

    Attributes:
        paths: for each op, the groups that it lies in, the outermost first.
        alike: for each run of at least two layers and each layer that is like an earlier one, that earlier one.
    """

    paths: tuple[tuple[str, ...], ...]
    alike: Mapping[str, str]


def outline(graph: Graph, values: Iterable[str] = ()) -> Outline:
    """The groups of a graph.

    Args:
        graph: the graph.
        values: names of values of other graphs that are shown beside it, so that all have the same groups.
    """
    known = {*graph.values, *values}
    scopes: dict[str, tuple[str, ...]] = {}
    paths = [_scopes(op.scope, known, scopes) for op in graph.ops]
    alike = _alike(graph.ops, paths)
    runs = dict(_runs(alike))
    alike |= {run: alike[layer] for layer, run in runs.items()}
    return Outline(tuple(_with_runs(path, runs) for path in paths), alike)


def group_label(group: str, outer: str, alike: Mapping[str, str]) -> str:
    """How a group is called in another one: `attn` in `layers.0`, `layers.1..43, like layers.0`."""
    if group.rpartition(".")[2].isdecimal():
        return f"{group}, like {alike[group]}" if group in alike else group
    return group[len(outer) + 1 :] if outer and group.startswith(outer + ".") else group


def _scopes(scope: str, known: set[str], memo: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The scopes around a name, without those that are values' names or number layers."""
    if scope in memo:
        return memo[scope]
    found: list[str] = []
    prefix = ""
    for part in scope.split(".") if scope else ():
        outer, prefix = prefix, f"{prefix}.{part}" if prefix else part
        if prefix in known:
            break
        if part.isdecimal() and found and found[-1] == outer:
            found.pop()
        found.append(prefix)
    memo[scope] = tuple(found)
    return memo[scope]


def _alike(ops: Sequence[Op], paths: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """The first layer that is the same, for each layer for which there is an earlier one."""
    members: dict[str, list[Op]] = {}
    for op, path in zip(ops, paths, strict=True):
        for group in path:
            if group.rpartition(".")[2].isdecimal():
                members.setdefault(group, []).append(op)
    first: dict[Hashable, str] = {}
    alike = {}
    for layer in sorted(members, key=_numbered):
        stack = layer.rpartition(".")[0]
        same = first.setdefault((stack, _signature(layer, members[layer])), layer)
        if same != layer:
            alike[layer] = same
    return alike


def _numbered(layer: str) -> tuple[str, int]:
    stack, _, number = layer.rpartition(".")
    return stack, int(number)


def _signature(layer: str, ops: Sequence[Op]) -> Hashable:
    """Equal for layers that compute the same from values of the same types, with other weights."""
    prefix, number = layer + ".", _numbered(layer)[1]

    def inside(name: str) -> str:
        return name[len(prefix) :] if name.startswith(prefix) else ""

    forms = [op_form(op, number) for op in ops]
    return tuple([(form.said, tuple([inside(name) for name in form.taken])) for form in forms])


def _runs(alike: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Each layer in a run of at least two that follow one another and are like the same one, with the run's name."""
    layers = sorted(alike, key=_numbered)
    start = 0
    for end in range(1, len(layers) + 1):
        if end < len(layers) and _follows(layers[end - 1], layers[end], alike):
            continue
        if end - start > 1:
            run = f"{layers[start]}..{layers[end - 1].rpartition('.')[2]}"
            yield from ((layer, run) for layer in layers[start:end])
        start = end


def _follows(layer: str, following: str, alike: Mapping[str, str]) -> bool:
    (stack, number), (other, then) = _numbered(layer), _numbered(following)
    return stack == other and then == number + 1 and alike[layer] == alike[following]


def _with_runs(path: tuple[str, ...], runs: Mapping[str, str]) -> tuple[str, ...]:
    if not any(group in runs for group in path):
        return path
    return tuple(part for group in path for part in ((runs[group], group) if group in runs else (group,)))
