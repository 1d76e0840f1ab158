"""The pass `merge-linears`: it computes linears that share their input as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.ir.analysis import constant_values
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import Replacement, RewriteBuilder, sweep
from compiler.ir.trace import RuleTrace, current_trace
from compiler.passes.registry import register


@register("merge-linears")
@dataclass(frozen=True)
class MergeLinears:
    """Compute linears that share their input as one linear over joined weights, and split the result.

    One large product is faster than several small ones: this makes q, k and v one. The weights must be constants that
    nothing else uses, and either all of the linears have a bias or none has.
    """

    mode: Annotated[Literal["on", "off"], "off leaves them apart"] = "on"

    def __call__(self, graph: Graph) -> Graph:
        """The graph with every group of siblings merged."""
        return merge_linears(graph) if self.mode == "on" else graph


def merge_linears(graph: Graph) -> Graph:
    """The pass `merge-linears`, as a function."""
    groups = list(_groups(graph))
    if not groups:
        return graph
    merged = {op.name: group for group in groups for op in group.ops}

    def visit(op: Op, builder: RewriteBuilder) -> Replacement:
        group = merged.get(op.name)
        if group is None:
            return None
        # Values are equal if names and types are, so the pieces below, under the old names, stand for the old results.
        return op.results if op.name != group.ops[0].name else group.emit(op.operands[0], builder)

    return sweep(_hoisted(graph, groups), visit, pass_name="merge-linears")


@dataclass(frozen=True)
class _Group:
    """Linears over one input, to be merged at the place of the first."""

    ops: tuple[Op, ...]

    def emit(self, x: Value, b: RewriteBuilder) -> Value:
        """The merged linear and its split; returns what stands for the first linear."""
        names = [op.name for op in self.ops]
        b.prefix = _common_scope(names)
        joined = "_".join(name.rpartition(".")[2] for name in names)
        parameters = [
            b.concat(*values, axis=0, name=f"{joined}.{word}")
            for word, values in zip(("weight", "bias"), self.parameters(), strict=False)
        ]
        merged = b.linear(x, *parameters, name=joined)
        # The pieces take over the names of the linears, which are going: nothing downstream changes.
        b.prefix = ""
        b.taken.difference_update(names)
        sizes = [op.operands[1].type.sizes({})[0] for op in self.ops]
        return b.split(merged, axis=-1, sizes=sizes, names=tuple(names))[0]

    def parameters(self) -> Iterable[tuple[Value, ...]]:
        """The weights, and if there are any the biases."""
        return zip(*(op.operands[1:] for op in self.ops), strict=True)


def _groups(graph: Graph) -> Iterator[_Group]:
    """Siblings that can be merged. What is among siblings and cannot is told to the trace."""
    trace = current_trace()
    record = trace.rule("merge-linears", "merge_linears") if trace else RuleTrace()
    record.roots = ("linear",)
    siblings: dict[str, list[Op]] = {}
    for op in graph.find("linear"):
        siblings.setdefault(op.operands[0].name, []).append(op)
        record.met.add(op.name)
    if not any(len(ops) > 1 for ops in siblings.values()):
        return
    constant = constant_values(graph)
    for ops in siblings.values():
        if len(ops) < 2:
            continue
        alike: dict[int, list[Op]] = {}
        for op in ops:
            if reason := _obstacle(op, graph, constant):
                record.decline(op, reason)
            else:
                alike.setdefault(len(op.operands), []).append(op)
        for group in alike.values():
            if len(group) > 1:
                for op in group:
                    record.apply(op)
                yield _Group(tuple(group))
            elif len(alike) > 1:
                record.decline(group[0], _odd_bias(group[0]))


def _obstacle(op: Op, graph: Graph, constant: Set[str]) -> str:
    for value in op.operands[1:]:
        if value.name not in constant:
            return f"%{value.name} is not constant"
        others = [f"%{user.name}" for user in graph.users[value.name] if user is not op]
        others += [f"the output {role!r}" for role, output in graph.outputs.items() if output == value]
        if others:
            return f"%{value.name} is also used by {others[0]}, so it would be stored twice"
    return ""


def _odd_bias(op: Op) -> str:
    has, have = ("a", "no") if len(op.operands) > 2 else ("no", "a")
    return f"it has {has} bias, where the other linears of %{op.operands[0].name} have {have} bias"


def _common_scope(names: list[str]) -> str:
    """The innermost scope that holds all the names, as a prefix."""
    scopes = [name.split(".")[:-1] for name in names]
    depth = 0
    while all(depth < len(scope) and scope[depth] == scopes[0][depth] for scope in scopes):
        depth += 1
    return "".join(f"{part}." for part in scopes[0][:depth])


def _hoisted(graph: Graph, groups: Iterable[_Group]) -> Graph:
    """The same ops, with all that makes a group's parameters before the group's first linear.

    Parameters are constants, so they depend on nothing that would have to move with them but constants.
    """
    at = {group.ops[0].name: group for group in groups}
    placed: dict[str, Op] = {}
    for op in graph.ops:
        if group := at.get(op.name):
            for values in group.parameters():
                for value in values:
                    _place(graph.producers, value, placed)
        placed.setdefault(op.name, op)
    return graph.with_ops(tuple(placed.values()), graph.outputs)


def _place(producers: Mapping[str, Op], value: Value, placed: dict[str, Op]) -> None:
    """Put the op behind a value, and what it needs, next."""
    stack = [producers[value.name]]
    while stack:
        op = stack[-1]
        missing = [producers[v.name] for v in op.operands if producers[v.name].name not in placed]
        if missing:
            stack += reversed(missing)
        else:
            placed.setdefault(stack.pop().name, op)
