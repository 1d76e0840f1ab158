"""Facts of a graph that follow from what it computes: kept up when a pass changes the graph.

A frontend takes them from the checkpoint. Later they change as the graph does: by as many parameters as the weights
lose or gain, by as many layers as caches come or go, and in proportion to the heads that a cache holds and their width.
What a pass says itself of a fact stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from compiler.ir.analysis import constant_values
from compiler.ir.cache_layout import layer_of_cache
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Fact, Graph
from compiler.ir.mesh import mesh_of
from compiler.ir.op import Op, Value
from compiler.ir.paged_layout import layout_of

# What these make of a constant has the same elements, or, of `shard`, all of them on all ranks together.
_SAME_ELEMENTS = frozenset({"cast", "transpose", "reshape", "shard", "quantize", "dequantize"})
# Their other operands are scales and zero points, which are no parameters of the model.
_SCALED = frozenset({"quantize", "dequantize"})


def with_derived_facts(before: Graph, after: Graph) -> Graph:
    """The graph with facts that fit it, after a pass that was given the graph `before`."""
    if after is before:
        return after
    changed = {name: fact for name, fact in _derived(before, after) if after.facts.get(name) == before.facts.get(name)}
    new: Mapping[str, Fact] = {**after.facts, **changed}
    return after if new == after.facts else replace(after, facts=FrozenDict(new))


def _derived(before: Graph, after: Graph) -> Iterator[tuple[str, int]]:
    known = {name: fact for name, fact in before.facts.items() if isinstance(fact, int)}
    if "parameters" in known:
        difference = parameter_count(after) - parameter_count(before)
        if difference:
            yield "parameters", known["parameters"] + difference
    if "layers" in known:
        yield "layers", known["layers"] + len(_cached_layers(after)) - len(_cached_layers(before))
    if mesh_of(before) != mesh_of(after):
        return  # the caches are those of one rank now
    sizes = zip((("kv_heads", "heads"), ("head_dim",)), _cache_sizes(before), _cache_sizes(after), strict=True)
    for names, old, new in sizes:
        for name in names:
            if old and new and name in known and known[name] * new % old == 0:
                yield name, known[name] * new // old


def _cached_layers(graph: Graph) -> set[str]:
    """What the names of caches begin with: `cache.3` of `cache.3.k`."""
    return set(map(layer_of_cache, graph.states()))


def _cache_sizes(graph: Graph) -> tuple[int, int]:
    """The most heads of any cache, and the largest width of one; 0 if there is none."""
    layout = layout_of(graph)
    shapes = [value.type.shape for value, _ in graph.states().values() if value.type.rank == layout.RANK]
    heads, width = (
        max((size for shape in shapes if isinstance(size := shape[axis], int)), default=0)
        for axis in (layout.HEAD, layout.WIDTH)
    )
    return heads, width


def parameter_count(graph: Graph) -> int:
    """How many numbers the weights that a graph uses have, whatever they are stored as, those of all ranks together.

    A weight that is used several times counts once. What llmc writes into the graph itself, such as slopes of ALiBi and
    scales of quantized values, does not count.
    """
    constant = constant_values(graph)
    weights: dict[str, int] = {}
    for op in graph.ops:
        if op.results[0].name not in constant:
            for value in op.operands[:1] if op.kind.name in _SCALED else op.operands:
                if value.name in constant:
                    weights.update((weight.name, weight.type.elements) for weight in _weights(graph, value))
    return sum(weights.values())


def _weights(graph: Graph, value: Value) -> Iterator[Value]:
    """The constants whose elements are a constant's, before they were cast, cut into shards, joined and so on."""
    op: Op = graph.producers[value.name]
    if op.kind.name in _SAME_ELEMENTS:
        yield from _weights(graph, op.operands[0])
    elif op.kind.name == "concat":
        for part in op.operands:
            yield from _weights(graph, part)
    elif op.kind.name != "literal":
        yield value
