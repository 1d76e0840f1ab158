"""The factors of a graph: which axes of its tensors stand for the same indices, and the rules of ops that say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from compiler.errors import PassError
from compiler.ir.analysis import constant_values
from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.ir.types import TensorType
from compiler.passes.parallel.factors import Factor, leaves, unify
from compiler.plugins import Registry, blamed

Axes = tuple[Factor, ...]
Use = tuple[str, int]


@dataclass(frozen=True)
class OpFactors:
    """An op with the factors of its operands' and results' axes; what a sharding rule works with.

    Attributes:
        op: the op.
        operands: for each operand, a factor for each axis.
        results: the same for each result.
    """

    op: Op
    operands: tuple[Axes, ...]
    results: tuple[Axes, ...]
    _graph_factors: GraphFactors

    def same(self, left: Sequence[Factor], right: Sequence[Factor]) -> None:
        """The indices along both, in row-major order, are the same ones. Where no factors agree, all must be whole."""
        self.whole(unify(left, right))

    def aligned(self, operand: Axes, result: Axes) -> None:
        """The axes correspond from the last one backwards, as broadcasting has it; those of size 1 repeat."""
        for mine, other in zip(reversed(operand), reversed(result), strict=False):
            if mine.size != 1 and other.size != 1:
                self.same((mine,), (other,))

    def whole(self, factors: Sequence[Factor]) -> None:
        """The op needs all indices of these at once."""
        self._graph_factors.needed_whole += [(factor, self.op) for factor in factors]

    def contracts(self) -> None:
        """The op sums over the last axis of its first operand and of its second, and can do so in parts."""
        self._graph_factors.contractions.append(self.op)

    def takes_largest(self) -> None:
        """The result is the largest of something, and can be computed as the largest of what shards give."""
        self._graph_factors.maxima.add(self.op.name)


ShardingRule = Callable[[OpFactors], None]
SHARDING_RULES = Registry[ShardingRule]("the op {!r} has a sharding rule already", PassError)
"""The sharding rules, by the kind of op."""


def sharding_rule(*kinds: str) -> Callable[[ShardingRule], ShardingRule]:
    """Decorator: the function says which axes of these kinds of op belong together; PassError if one has a rule.

    A kind without a rule needs all of its operands.
    """

    def register(rule: ShardingRule) -> ShardingRule:
        for kind in kinds:
            SHARDING_RULES.add(kind, rule, rule)
        return rule

    return register


class GraphFactors:
    """The factors of a graph.

    A constant has factors of its own for each use, because each use can have its own shard of it.

    Attributes:
        graph: the graph.
        constants: the names of constant values.
        values: the axes of each value that is no constant.
        uses: the axes of each constant operand, by the op's name and the operand's place.
        contractions: the linears whose input is no constant.
        maxima: the names of the ops whose results are the largest of what they give on shards.
        whole: the leaves that some op needs all of, with that op; None for an output of the graph.
        outputs: the leaves of the outputs that are no caches.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = constant_values(graph)
        self.values: dict[str, Axes] = {value.name: _fresh(value.type) for value in graph.inputs}
        self.uses: dict[Use, Axes] = {}
        self.contractions: list[Op] = []
        self.maxima: set[str] = set()
        self.needed_whole: list[tuple[Factor, Op | None]] = []
        for op in graph.ops:
            if op.name not in self.constants:
                self._place(op)
        self._place_outputs()
        self.whole: dict[Factor, Op | None] = {}
        for factor, needing in self.needed_whole:
            for leaf in leaves((factor,)):
                self.whole.setdefault(leaf, needing)
        self.outputs = {leaf for factor, op in self.needed_whole if op is None for leaf in leaves((factor,))}

    def operand(self, op: Op, i: int) -> Axes:
        """The factors of an operand's axes."""
        value = op.operands[i]
        return self.uses[op.name, i] if value.name in self.constants else self.values[value.name]

    def all_axes(self) -> Iterator[tuple[str | Use, Axes]]:
        """The axes of every value and every use of a constant."""
        yield from self.values.items()
        yield from self.uses.items()

    def _place(self, op: Op) -> None:
        for i, value in enumerate(op.operands):
            if value.name in self.constants:
                self.uses[op.name, i] = _fresh(value.type)
        self.values.update((value.name, _fresh(value.type)) for value in op.results)
        operands = tuple([self.operand(op, i) for i in range(len(op.operands))])
        factors = OpFactors(op, operands, tuple([self.values[value.name] for value in op.results]), self)
        rule = SHARDING_RULES.find(op.kind.name)
        if rule is not None:
            with blamed(rule, f"the sharding rule of {op.kind.name}, at %{op.name} from {op.origin},"):
                rule(factors)
            return
        for axes in operands:
            factors.whole(axes)

    def _place_outputs(self) -> None:
        states = self.graph.states()
        for role, value in self.graph.outputs.items():
            if value.name in self.constants:
                continue
            if role in states:
                for old, new in zip(self.values[role], self.values[value.name], strict=True):
                    self.needed_whole += [(factor, None) for factor in unify((old,), (new,))]
            else:
                self.needed_whole += [(factor, None) for factor in self.values[value.name]]


def _fresh(type_: TensorType) -> Axes:
    return tuple([Factor(dim) for dim in type_.shape])
