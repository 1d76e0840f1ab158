"""Lowering a graph to one straight-line Python function over torch.

The function takes the graph's inputs, in order, and where it writes into the caches (in packed steps, where it reads,
too); its locals are the graph's values. Nothing of the IR is left at run time: each op has become one call, constants
are globals of the function, and values are deleted after their last use. `Program.source` is meant to be read.

On a CPU, half-precision values live as float32 between ops: CPUs compute no other floats fast, and the results are
only closer to the real ones. Weights stay in 16 bits.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compiler.errors import PluginError, TargetError
from compiler.ir.analysis import packed_weights, stored_values
from compiler.ir.evaluators.quant import dequantize
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.torch_types import to_torch
from compiler.plugins import Registry, blamed, broken_hint, is_own, place_of
from runtime.collectives.communicator import Communicator, SingleRank
from runtime.executors.torch import kernels, paged_kernels
from runtime.executors.torch.linear import Linear

Pack = Callable[[Tensor, Tensor | None], Linear | Future[Linear]]


@dataclass(frozen=True)
class Program:
    """A lowered graph.

    Attributes:
        run: the function.
        source: its source.
        file: what tracebacks call the source.
        graph: the graph.
        ops: the op that each line of the source computes, by the line's number.
        variables: the variable that holds each value, by the value's name.
    """

    run: Callable[..., tuple[Tensor, ...]]
    source: str
    file: str
    graph: Graph
    ops: Mapping[int, Op]
    variables: Mapping[str, str]


def runtime_dtype(value: Value, *, upcast: bool) -> torch.dtype:
    """The torch type that holds a value; with `upcast`, half-precision values are held as float32."""
    dtype = to_torch(value.type.dtype)
    return torch.float32 if upcast and dtype in (torch.float16, torch.bfloat16) else dtype


@dataclass
class Lowering:
    """What the rules append to while a graph is lowered."""

    graph: Graph
    device: torch.device
    load: Callable[[Value], Tensor]
    """Reads a constant as stored."""
    pack: Pack
    """Makes the function that multiplies by a weight, or promises it."""
    upcast: bool
    """Whether half-precision values are held as float32."""
    packed: Mapping[str, Op] = field(default_factory=dict)
    """The ops that dequantize constants, by the name of the result: what multiplies by it takes it as it is stored."""
    lines: list[str] = field(default_factory=list)
    globals: dict[str, Any] = field(default_factory=dict)
    constant: Set[str] = frozenset()
    names: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    shared: dict[tuple[str, ...], str] = field(default_factory=dict)

    def dtype(self, value: Value) -> torch.dtype:
        """The torch type that holds a value at run time."""
        return runtime_dtype(value, upcast=self.upcast)

    def ref(self, value: Value) -> str:
        """The variable that holds a value; a constant is loaded when it is first asked for."""
        if value.name not in self.names:
            self.names[value.name] = self.variable(value.name)
            if value.name in self.constant:
                self.globals[self.names[value.name]] = self.load(value).to(self.device, self.dtype(value))
            elif value.name in self.packed:
                q, *parameters = map(self.load, self.packed[value.name].operands)
                dense = dequantize(q, parameters[0].float(), parameters[1] if len(parameters) > 1 else None)
                self.globals[self.names[value.name]] = dense.to(self.device, self.dtype(value))
        return self.names[value.name]

    def hold(self, name: str, thing: Any) -> str:
        """A global of the function that holds `thing`."""
        variable = self.variable(name)
        self.globals[variable] = thing
        return variable

    def variable(self, name: str) -> str:
        """A fresh Python variable for a name: `layers_0_attn_q` for `layers.0.attn.q`."""
        text = re.sub(r"\W", "_", name)
        text = f"v{text}" if text[:1].isdigit() else text
        while text in self.taken or text in self.graph.dims or keyword.iskeyword(text):
            text += "_"
        self.taken.add(text)
        return text

    def once(self, key: tuple[str, ...], expression: str) -> str:
        """A local that holds `expression`, computed at its first mention: for what the layers of a model share."""
        if key not in self.shared:
            self.shared[key] = self.variable("_".join(key))
            self.lines.append(f"{self.shared[key]} = {expression}")
        return self.shared[key]


Rule = Callable[[Lowering, Op], str]
RULES = Registry[Rule]("the op {!r} has a rule of the torch executor already", TargetError)
"""The rules, by the kind of op."""
RULE_DECORATOR = "llmc.lowers"
"""What registers a rule, as messages call it."""


@dataclass(frozen=True, eq=False)
class Fusion:
    """Ops that are computed together.

    Attributes:
        name: what a reader calls it.
        ops: what it computes, in the order of the graph. What others use of their results, `lines` assigns.
        lines: the lines of the program that compute it.
    """

    name: str
    ops: tuple[Op, ...]
    lines: Callable[[Lowering], Iterable[str]]


def lowers(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: the function gives the expression for ops of these kinds; TargetError if one has a rule already."""

    def register(rule: Rule) -> Rule:
        for kind in kinds:
            RULES.add(kind, rule, rule)
        return rule

    return register


def running_ops(graph: Graph) -> Iterator[Op]:
    """The ops that a step runs: neither constants, nor what dequantizes them where they are multiplied by."""
    idle = stored_values(graph) | packed_weights(graph).keys()
    return (op for op in graph.ops if op.results[0].name not in idle)


def lower(
    graph: Graph,
    device: torch.device,
    load: Callable[[Value], Tensor],
    pack: Pack,
    *,
    upcast: bool,
    group: Communicator | None = None,
    fusions: Iterable[Fusion] = (),
) -> Program:
    """Lower a graph whose constants are `const` or `literal` ops.

    Collectives are computed with `group`, in the order in which the function comes to them.

    Args:
        graph: the graph.
        device: where the function runs.
        load: reads a constant as stored.
        pack: makes the function that multiplies by a weight, or promises it.
        upcast: whether half-precision values are held as float32.
        group: the ranks of the graph's stage; None for a rank alone.
        fusions: ops to be computed together. What no fusion has is computed op by op.

    Raises:
        TargetError: naming the first op that the executor has no rule for.
        PluginError: naming the first op whose rule, one that is not llmc's own, fails.
    """
    packed = packed_weights(graph)
    state = Lowering(graph, device, load, pack, upcast, packed, constant=stored_values(graph))
    state.globals.update(
        torch=torch,
        kernels=kernels,
        paged=paged_kernels,
        F=torch.nn.functional,
        device=device,
        group=group or SingleRank(),
    )
    state.taken.update((*state.globals, "writes"))
    parameters = [state.ref(value) for value in graph.inputs]
    state.lines.extend(_size_lines(graph, state))
    ops: dict[int, Op] = {}
    line = 2 + len(state.lines)  # that of `def step` is the first
    steps = ordered([*running_ops(graph)], fusions)
    for step, dead in zip(steps, _dead_after(graph, steps, keep=state.constant | packed.keys()), strict=True):
        before = len(state.lines)
        if isinstance(step, Fusion):
            state.lines.extend(step.lines(state))
        else:
            state.lines.append(plain_line(state, step))
        count = sum(1 + text.count("\n") for text in state.lines[before:])
        ops.update(dict.fromkeys(range(line, line + count), step.ops[-1] if isinstance(step, Fusion) else step))
        line += count
        names = [state.names[name] for name in dead if name in state.names]
        if names:
            state.lines.append(f"del {', '.join(names)}")
            line += 1
    results = "".join(f"{state.ref(value)}, " for value in graph.outputs.values())
    body = "\n    ".join([*state.lines, f"return ({results})"])
    source = f"def step({', '.join([*parameters, 'writes'])}):\n    {body}\n"
    for name, thing in state.globals.items():
        if isinstance(thing, Future):
            state.globals[name] = thing.result()
    file = f"<lowered {graph.name}>"
    exec(compile(source, file, "exec"), state.globals)
    return Program(state.globals["step"], source, file, graph, ops, state.names)


def plain_line(state: Lowering, op: Op) -> str:
    """The line that computes an op; lines that it needs before are appended."""
    rule = RULES.find(op.kind.name)
    if rule is None:
        raise TargetError(
            f"the torch executor cannot run {op.kind.name} %{op.name} from {op.origin}",
            hint=broken_hint(f"rewrite it into other ops with a pass, or register @{RULE_DECORATOR}({op.kind.name!r})"),
        )
    expression = _expression(rule, state, op)
    return f"{', '.join(state.ref(value) for value in op.results)} = {expression}"


def ordered(ops: Sequence[Op], fusions: Iterable[Fusion]) -> list[Op | Fusion]:
    """Ops, or the fusions that they are in, in an order in which everything is computed before it is used.

    Raises:
        ValueError: if two fusions need each other.
    """
    fused: dict[str, Fusion] = {op.name: fusion for fusion in fusions for op in fusion.ops}
    steps: list[Op | Fusion] = [*dict.fromkeys(fused.get(op.name, op) for op in ops)]
    makers = {value.name: step for step in steps for op in ops_of(step) for value in op.results}
    result: list[Op | Fusion] = []
    done: set[int] = set()
    entered: set[int] = set()
    for last in steps:
        stack = [last]
        while stack:
            step = stack[-1]
            missing = [makers[name] for name in reads(step) if name in makers and id(makers[name]) not in done]
            if not missing:
                stack.pop()
                if id(step) not in done:
                    done.add(id(step))
                    result.append(step)
                continue
            if any(id(each) in entered for each in missing):
                raise ValueError(f"{step} needs itself")
            entered.add(id(step))
            stack.append(missing[0])
    return result


def ops_of(step: Op | Fusion) -> tuple[Op, ...]:
    """The ops that a step of a program computes."""
    return step.ops if isinstance(step, Fusion) else (step,)


def reads(step: Op | Fusion) -> list[str]:
    """The names of the values that a step of a program takes from outside, in order."""
    own = {value.name for op in ops_of(step) for value in op.results}
    return [*dict.fromkeys(value.name for op in ops_of(step) for value in op.operands if value.name not in own)]


def _dead_after(graph: Graph, steps: Sequence[Op | Fusion], keep: Set[str]) -> list[tuple[str, ...]]:
    """For each step the values that nothing needs after it; see `compiler.ir.analysis.last_uses`."""
    needed = {value.name for value in graph.outputs.values()} | keep
    dead: list[tuple[str, ...]] = []
    for step in reversed(steps):
        names = {value.name for op in ops_of(step) for value in (*op.operands, *op.results)} - needed
        dead.append(tuple(sorted(names)))
        needed |= names
    return dead[::-1]


def _expression(rule: Rule, state: Lowering, op: Op) -> str:
    """What a rule gives, if it is an expression.

    Raises:
        PluginError: if a rule that is not llmc's own fails, or gives anything else.
    """
    what = f"the torch rule of {op.kind.name} %{op.name} from {op.origin}"
    with blamed(rule, what):
        expression = rule(state, op)
    if is_own(rule):
        return expression
    try:
        compile(expression, what, "eval")
    except (SyntaxError, TypeError, ValueError) as error:
        raise PluginError(
            f"{what} gives {expression!r}, which is no expression of Python: {error} ({place_of(rule)})",
            hint="it returns the text of an expression, such as f'torch.sin({state.ref(op.operands[0])})'",
        ) from None
    return expression


def _size_lines(graph: Graph, state: Lowering) -> Iterable[str]:
    """Bind each symbolic dim from the first input that shows it."""
    seen: set[str] = set()
    for value in graph.inputs:
        for axis, dim in enumerate(value.type.shape):
            name = str(dim)
            if name in graph.dims and name not in seen:
                seen.add(name)
                yield f"{name} = {state.ref(value)}.shape[{axis}]"
