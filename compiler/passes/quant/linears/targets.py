"""Which linears a recipe is for."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from compiler.errors import PassError
from compiler.ir.analysis import stored_values
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.step import LOGITS
from compiler.passes.quant.recipe import Recipe
from compiler.suggest import did_you_mean


@dataclass(frozen=True)
class TargetLinear:
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


def targets(graph: Graph, recipe: Recipe, group: int = 0) -> list[TargetLinear]:
    """The linears that a recipe is for, in order: those over a constant weight, but for the head.

    The head, the linear that makes the logits, is among them if a pattern of `only` names it. A pattern matches a
    module, or everything inside it: `layers.0`, `*.fc1`, `q_proj`. A linear that joins several weights matches where
    one of them does. `group` is how many weights of a row are to share a scale, 0 for all.

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
        require_group(target, group)
    return kept


def candidates(graph: Graph) -> list[TargetLinear]:
    """Every linear over a constant weight that is not quantized yet."""
    constant = stored_values(graph)
    return [_target(graph, op) for op in graph.find("linear") if op.operands[1].name in constant]


def head_of(graph: Graph) -> str | None:
    """The name of the linear that makes the logits; None if no linear does."""
    value = graph.outputs.get(LOGITS)
    while value is not None and (op := graph.producers.get(value.name)) is not None:
        if op.kind.name == "linear":
            return op.name
        value = op.operands[0] if op.operands else None
    return None


def require_group(target: TargetLinear, group: int) -> None:
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


def _target(graph: Graph, op: Op) -> TargetLinear:
    tensors = _tensors(graph, op.operands[1])
    modules = list(dict.fromkeys(name.rpartition(".")[0] or name for name in tensors))
    module = modules[0] if len(modules) == 1 else op.origin.module or op.name
    return TargetLinear(op, module, tuple(dict.fromkeys([*modules, op.origin.module, op.name])))


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


def _is_wanted(target: TargetLinear, recipe: Recipe, head: str | None) -> bool:
    if any(_matches(pattern, target) for pattern in recipe.skip):
        return False
    if recipe.only:
        return any(_matches(pattern, target) for pattern in recipe.only)
    return target.op.name != head


def _matches(pattern: str, target: TargetLinear) -> bool:
    return any(fnmatchcase(f".{name}.", f"*.{pattern}.*") for name in target.names)
