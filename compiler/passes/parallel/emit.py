"""Writing the graph of all ranks, once it is known what is split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compiler.errors import PassError
from compiler.ir.collection import no_collection
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, eliminate_dead
from compiler.passes.parallel.factors import leaves
from compiler.passes.parallel.graph_factors import GraphFactors
from compiler.passes.parallel.sharding import Sharding
from compiler.passes.parallel.shards import local_type, shard_value

_SHAPED = ("reshape", "broadcast")


@no_collection()
def emit(factors: GraphFactors, sharding: Sharding, ranks: int, pass_name: str) -> Graph:
    """The graph on shards: constants cut where they are used, sums of parts added up over the ranks.

    Raises:
        PassError: if an op does not compute, on shards, the shards of what it computes on the whole.
    """
    return _Emission(factors, sharding, ranks, pass_name).graph()


class _Emission:
    def __init__(self, factors: GraphFactors, sharding: Sharding, ranks: int, pass_name: str) -> None:
        self.factors = factors
        self.splits = sharding.splits
        self.sums = {op.name for pair in sharding.pairs for op in pair.rows}
        self.ranks = ranks
        self.b = RewriteBuilder(factors.graph, pass_name)
        self.values: dict[str, Value] = {}
        self.shards: dict[object, Value] = {}

    def graph(self) -> Graph:
        """The whole graph."""
        graph = self.factors.graph
        inputs = []
        for value in graph.inputs:
            local = Value(value.name, local_type(value.type, self.factors.values[value.name], self.splits))
            if local != value and value.name not in graph.outputs:
                raise PassError(f"the input %{value.name} would have to be given in shards")
            self.values[value.name] = local
            inputs.append(local)
        for op in graph.ops:
            self.b.visiting(op)
            if op.name in self.factors.constants:
                self.b.ops.append(op)
            else:
                self._op(op)
        outputs = {role: self.values.get(value.name, value) for role, value in graph.outputs.items()}
        return eliminate_dead(replace(graph, inputs=tuple(inputs), ops=tuple(self.b.ops), outputs=FrozenDict(outputs)))

    def _op(self, op: Op) -> None:
        operands = [self._operand(op, i) for i in range(len(op.operands))]
        wanted = [local_type(value.type, self.factors.values[value.name], self.splits) for value in op.results]
        if tuple(operands) == op.operands and all(v.type == t for v, t in zip(op.results, wanted, strict=True)):
            self.b.ops.append(op)
            results = op.results
        elif op.name in self.sums:
            results = self._summed(op, operands)
        elif op.name in self.factors.maxima:
            results = self._largest(op, operands)
        else:
            results = self._on_shards(op, operands)
        for old, new in zip(op.results, results, strict=True):
            self.values[old.name] = self._shard(op, new, old)

    def _on_shards(self, op: Op, operands: list[Value]) -> tuple[Value, ...]:
        attrs: dict[str, Any] = dict(op.attrs)
        if op.kind.name in _SHAPED:
            value = op.result
            attrs["shape"] = local_type(value.type, self.factors.values[value.name], self.splits).shape
        names = tuple([f"{op.kind.name}{i}" for i in range(len(op.results))])
        self.b.emit(op.kind, operands, attrs, names)
        return self.b.rename_last(op.results)

    def _summed(self, op: Op, operands: list[Value]) -> tuple[Value, ...]:
        """Each rank's products, added up; the bias once, after that."""
        x, weight, *bias = operands
        partial = self.b.linear(x, weight, name="partial")
        total = self.b.all_reduce(partial, parts=self.ranks, name="reduced")
        if bias:
            self.b.add(total, bias[0], name="biased")
        return self.b.rename_last(op.results)

    def _largest(self, op: Op, operands: list[Value]) -> tuple[Value, ...]:
        """The largest of what all ranks have, where each has a part of what it is taken of."""
        axis = self.factors.operand(op, 0)[op.attrs["axis"]]
        if not any(leaf in self.splits for leaf in leaves((axis,))):
            return self._on_shards(op, operands)
        (own,) = self.b.emit(op.kind, operands, op.attrs, ("own",))
        self.b.all_max(own, parts=self.ranks, name="largest")
        return self.b.rename_last(op.results)

    def _operand(self, op: Op, i: int) -> Value:
        value = op.operands[i]
        if value.name not in self.factors.constants:
            return self.values[value.name]
        axes = self.factors.operand(op, i)
        if local_type(value.type, axes, self.splits) == value.type:
            return value
        key = (
            value.name,
            tuple([tuple([(leaf.size, self.splits.get(leaf)) for leaf in leaves((factor,))]) for factor in axes]),
        )
        if key not in self.shards:
            producer = self.factors.graph.producers[value.name]
            self.b.visiting(producer)
            self.b.prefix = f"{value.name}."
            self.shards[key] = shard_value(self.b, value, axes, self.splits, range(len(axes)), "shard")
            self.b.visiting(op)
        return self.shards[key]

    def _shard(self, op: Op, value: Value, original: Value) -> Value:
        """The rank's shard of a result: what the op gives, or cut from it along the axes that it gives whole."""
        axes = self.factors.values[original.name]
        wanted = local_type(original.type, axes, self.splits)
        uncut = [i for i, (a, b) in enumerate(zip(value.type.shape, wanted.shape, strict=True)) if a != b]
        if any(value.type.shape[i] != original.type.shape[i] for i in uncut):
            raise PassError(
                f"tp: {op.kind.name} %{op.name} from {op.origin} gives {value.type} where {wanted} is wanted",
                hint="the sharding rule of this op is wrong: see llmc.sharding_rule",
            )
        if not uncut:
            return value
        self.b.prefix = f"{original.name}."
        return shard_value(self.b, value, axes, self.splits, uncut, "shard")
