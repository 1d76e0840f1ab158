"""Recipes: how weights are quantized, which linears a recipe is for, and putting quantized weights in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from compiler.errors import PassError
from compiler.ir.analysis import stored_values
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep
from compiler.ir.suggest import did_you_mean

PASS_NAME = "quant"

Algorithm = Literal["int8", "int4", "awq", "gptq", "smoothquant", "fp8", "auto"]
Activations = Literal["off", "token", "static"]
WeightScales = Literal["tensor", "channel"]


@dataclass(frozen=True)
class Recipe:
    """How linears are quantized; every option of the pass `quant`, with the defaults of its algorithm filled in.

    Attributes:
        algorithm: which one.
        bits: bits of a weight; the average that `auto` may spend.
        group: how many weights of a row share a scale; 0 for one scale a row (an output channel).
        skip: patterns of modules to leave alone.
        only: patterns of the modules to quantize; all but the head if empty.
        zero: whether weights have zero points (asymmetric), where the algorithm leaves a choice.
        act: what is done to activations: nothing (`off`), a scale for each token, or one from calibration.
        weights: with `fp8`, whether a scale is for a whole weight or for one of its rows.
        alpha: with `smoothquant`, how much of the outliers moves into the weights; None to search for it.
        damping: with `gptq`, the part of the mean of the Hessian's diagonal that is added to the diagonal.
        order: with `gptq`, whether columns are quantized in the order of falling activations.
        scale: how many scales an algorithm over caches gives: `head` or `tensor`.
    """

    algorithm: Algorithm
    bits: float = 8
    group: int = 0
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    zero: bool = False
    act: Activations = "off"
    weights: WeightScales = "channel"
    alpha: float | None = 0.5
    damping: float = 0.01
    order: bool = True
    scale: Literal["head", "tensor"] = "head"

    @property
    def dtype(self) -> DType:
        """The element type that quantized weights are stored in; fewer than 4 bits are stored in 4."""
        if self.algorithm == "fp8":
            return DType.f8e4m3
        return DType.i4 if self.bits <= 4 else DType.i8


@dataclass(frozen=True)
class Target:
    """A linear to quantize.

    Attributes:
        op: the linear; its weight is constant.
        module: what messages call it: the module of the checkpoint that its weight comes from.
        names: everything that a pattern may match: the op's name, its module, and those of all tensors in its weight.
    """

    op: Op
    module: str
    names: tuple[str, ...]

    @property
    def weight(self) -> Value:
        """Its weight, `[N, K]`."""
        return self.op.operands[1]


def require_one_rank(graph: Graph, name: str) -> None:
    """PassError if a graph is for several ranks already: calibration runs the whole model."""
    mesh = mesh_of(graph)
    if mesh.size > 1:
        raise PassError(
            f"{name} comes before tp and pp: the graph is for {mesh} already",
            hint=f"write the passes in the order {name}=...,tp=...,pp=...",
        )


def targets(graph: Graph, recipe: Recipe) -> list[Target]:
    """The linears that a recipe is for, in order: those over a constant weight, but for the head.

    The head, the linear that makes the logits, is among them if a pattern of `only` names it. A pattern matches a
    module, or everything inside it: `layers.0`, `*.fc1`, `q_proj`. A linear that joins several weights matches where
    one of them does.

    Raises:
        PassError: if a pattern matches no linear, nothing is left to quantize, or a group does not divide a weight.
    """
    found = candidates(graph)
    for pattern in (*recipe.skip, *recipe.only):
        if not any(_matches(pattern, target) for target in found):
            modules = [target.module for target in found]
            raise PassError(
                f"the pattern {pattern!r} matches no linear of the model{did_you_mean(pattern, modules)}",
                hint=f"linears are those of {', '.join(modules[:4])} ..." if modules else None,
            )
    head = head_of(graph)
    kept = [target for target in found if _is_wanted(target, recipe, head)]
    if not kept:
        raise PassError(
            "there is no linear left to quantize", hint="give other patterns for skip= and only=, or leave the pass out"
        )
    for target in kept:
        require_group(target, recipe.group)
    return kept


def candidates(graph: Graph) -> list[Target]:
    """Every linear over a constant weight that is not quantized yet."""
    constant = stored_values(graph)
    return [_target(graph, op) for op in graph.find("linear") if op.operands[1].name in constant]


def head_of(graph: Graph) -> str | None:
    """The name of the linear that makes the logits; None if no linear does."""
    value = graph.outputs.get("logits")
    while value is not None and (op := graph.producers.get(value.name)) is not None:
        if op.kind.name == "linear":
            return op.name
        value = op.operands[0] if op.operands else None
    return None


def require_group(target: Target, group: int) -> None:
    """PassError, naming the module, unless `group` divides the inputs of a linear."""
    width = target.weight.type.shape[1]
    assert isinstance(width, int)
    if group < 0 or (group and width % group):
        raise PassError(
            f"group={group} does not divide the {width} inputs of {target.module}",
            hint="give a group that does, such as "
            + ", ".join(str(size) for size in (128, 64, 32, 16) if width % size == 0)
            + f"; or leave the module out: skip={target.module}",
        )


def _target(graph: Graph, op: Op) -> Target:
    tensors = _tensors(graph, op.operands[1])
    modules = [name.rpartition(".")[0] or name for name in tensors]
    module = modules[0] if len(modules) == 1 else op.origin.module or op.name
    return Target(op, module, tuple(dict.fromkeys([*modules, op.origin.module, op.name])))


def _tensors(graph: Graph, value: Value) -> list[str]:
    """The names of the tensors in the checkpoint that a constant is made of."""
    names: dict[str, None] = {}
    stack, seen = [value.name], set[str]()
    while stack:
        op = graph.producers[stack.pop()]
        if op.name in seen:
            continue
        seen.add(op.name)
        if op.kind.name == "const":
            names[op.attrs["data"].name] = None
        elif op.kind.name == "random":
            names[op.attrs["key"]] = None
        stack.extend(operand.name for operand in reversed(op.operands))
    return list(names)


def _is_wanted(target: Target, recipe: Recipe, head: str | None) -> bool:
    if any(_matches(pattern, target) for pattern in recipe.skip):
        return False
    if recipe.only:
        return any(_matches(pattern, target) for pattern in recipe.only)
    return target.op.name != head


def _matches(pattern: str, target: Target) -> bool:
    return any(fnmatchcase(f".{name}.", f"*.{pattern}.*") for name in target.names)


Emit = Callable[[Op, RewriteBuilder], Value]
"""Appends what replaces a linear, which is on rewritten operands; returns the value that replaces its result."""


def rewrite_linears(graph: Graph, emits: Mapping[str, Emit]) -> Graph:
    """The graph with some linears replaced; `emits` says by what, by the linear's name."""

    def visit(op: Op, b: RewriteBuilder) -> Value | None:
        emit = emits.get(op.name)
        return emit(op, b) if emit else None

    return sweep(graph, visit, pass_name=PASS_NAME)


def dequantized_linear(
    op: Op, b: RewriteBuilder, quantized: Value, scale: Value, zero: Value | None = None, *, x: Value | None = None
) -> Value:
    """Append `op` with its weight replaced by `dequantize(quantized, scale, zero)`; returns its result.

    Args:
        op: the linear.
        b: the builder of a sweep that visits it.
        quantized: the weight, `[N, K]`, such as a `const` over a stored tensor.
        scale: its scales, `[N, 1]`, `[N, K / group]` or `[1, 1]`.
        zero: its zero points, of the scale's shape and the weight's type.
        x: what stands for the input of the linear; its own if none is given.
    """
    old, *bias = op.operands[1:]
    weight = b.dequantize(quantized, scale, zero, dtype=old.type.dtype, name="weight")
    return b.linear(x or op.operands[0], weight, *bias)  # type: ignore[no-any-return]
