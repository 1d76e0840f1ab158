"""Linears that one layer of the plug-in `llmc::product` stands for.

Linears that read one input (q, k, v; up as well where the attention and the MLP of a layer read one norm) are one
product, whose columns are their results. Two linears that are added up (out and down) are one product over both of
their inputs. Weights must be quantized, and alike: those of floats are shared with plans that multiply by them apart.

The first are joined only where attention is a plug-in, too, which reads columns in place. TensorRT's own attention over
columns that have to be cut out was slow for many rows: on an H100, a step of 64 rows took twice as long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd

from compiler.backend_trt.rules.plugin_products import LEAST_GROUP, PluginProduct
from compiler.ir.graph import Graph
from compiler.ir.int4 import chunk_of
from compiler.ir.op import Op, Value
from compiler.trt_network.products import ProductSpec


@dataclass(frozen=True)
class ProductLayer:
    """A layer of the plug-in, and what it stands for.

    Attributes:
        products: the linears; each is a section of the result, unless they are added up.
        spec: what the layer computes.
        total: the addition whose result is the sum of the linears and of `others`; None if they are not added up.
        others: what else is added up, in order.
        inner: the additions of which `total` consists besides itself.
    """

    products: tuple[PluginProduct, ...]
    spec: ProductSpec
    total: Op | None = None
    others: tuple[Value, ...] = ()
    inner: tuple[Op, ...] = ()

    @property
    def at(self) -> Op:
        """The op in whose place the layer is added."""
        return self.total or self.products[0].linear

    @property
    def ops(self) -> Iterator[Op]:
        """The ops that it stands for."""
        yield from self.inner
        for product in self.products:
            yield from product.ops
        if self.total is not None:
            yield self.total


def product_layers(graph: Graph, products: Mapping[str, PluginProduct], kinds: Collection[str]) -> list[ProductLayer]:
    """The layers that stand for the linears of a plan, each of which is in one.

    Args:
        graph: the graph of the plan.
        products: what the linears are, as `plugin_products` gives them.
        kinds: what becomes layers of plug-ins: as `BuildOptions.plugins` has them.
    """
    joins_readers = "attention" in kinds
    by_input: dict[tuple[object, ...], list[PluginProduct]] = {}
    for product in products.values():
        kind = _kind(graph, product) if joins_readers else (product.linear.name,)
        by_input.setdefault((product.linear.operands[0].name, *kind), []).append(product)
    layers = [ProductLayer(tuple(group), _sections_spec(group)) for group in by_input.values() if len(group) > 1]
    alone = {group[0].linear.name: group[0] for group in by_input.values() if len(group) == 1}
    for layer in _sums(graph, dict(alone)):
        layers.append(layer)
        for product in layer.products:
            del alone[product.linear.name]
    return layers + [ProductLayer((product,), product.spec) for product in alone.values()]


def _kind(graph: Graph, product: PluginProduct) -> tuple[object, ...]:
    """What linears have in common that can be one product.

    One over floats is alone, as is one that shares its weight, which would be held twice, and one with a computed bias.
    """
    spec = product.spec
    weight, *bias = product.linear.operands[1:]
    computed = any(graph.producers[value.name].kind.name != "const" for value in bias)
    if product.packed is None or len(graph.users[weight.name]) > 1 or computed:
        return (product.linear.name,)
    group = 0 if _is_whole(spec) else spec.group
    return spec.form, group, spec.zero, spec.factor, spec.rounded, product.linear.result.type.dtype


def _is_whole(spec: ProductSpec) -> bool:
    return spec.group == spec.columns and not spec.zero


def _sections_spec(group: Sequence[PluginProduct]) -> ProductSpec:
    specs = [product.spec for product in group]
    return replace(
        specs[0],
        rows=sum(spec.rows for spec in specs),
        bias=any(spec.bias for spec in specs),
        activation=None,
        sections=tuple((spec.rows, spec.activation) for spec in specs),
    )


def _sums(graph: Graph, products: Mapping[str, PluginProduct]) -> Iterator[ProductLayer]:
    """Sums of which two linears can be one product."""
    outputs = {value.name for value in graph.outputs.values()}
    inside: set[str] = set()
    for op in reversed(graph.ops):
        if op.kind.name != "add" or op.name in inside:
            continue
        parts, inner = _summands(graph, op, outputs)
        inside.update(each.name for each in inner)
        counts = Counter(value.name for value in parts)
        mine = [
            product
            for value in parts
            if (product := products.get(value.name)) is not None
            and product.activation is None
            and counts[value.name] == 1
            and _only_read(graph, value, outputs)
            and value.type == op.result.type
        ]
        pair = _pair(graph, mine)
        if pair is not None:
            spec, members = pair
            names = {product.linear.name for product in members}
            others = tuple(value for value in parts if value.name not in names)
            yield ProductLayer(members, spec, op, others, tuple(inner))


def _summands(graph: Graph, root: Op, outputs: set[str]) -> tuple[list[Value], list[Op]]:
    """What an addition adds up, through additions whose results nothing else reads; and these additions."""
    parts: list[Value] = []
    inner: list[Op] = []
    waiting = [*root.operands[::-1]]
    while waiting:
        value = waiting.pop()
        maker = graph.producers.get(value.name)
        is_inner = maker is not None and maker.kind.name == "add" and value.type == root.result.type
        if maker is not None and is_inner and _only_read(graph, value, outputs):
            inner.append(maker)
            waiting += maker.operands[::-1]
        else:
            parts.append(value)
    return parts, inner


def _only_read(graph: Graph, value: Value, outputs: set[str]) -> bool:
    """Whether one op alone reads a value, and as one operand."""
    users = graph.users.get(value.name, ())
    return len(users) == 1 and value.name not in outputs and users[0].operands.count(value) == 1


def _pair(graph: Graph, products: Iterable[PluginProduct]) -> tuple[ProductSpec, tuple[PluginProduct, ...]] | None:
    """What two of some products that can be one compute; None if there are none."""
    by_kind: dict[tuple[object, ...], PluginProduct] = {}
    for product in products:
        first = by_kind.setdefault((product.spec.rows, *_kind(graph, product)), product)
        if first is not product and (spec := _pair_spec(first.spec, product.spec)) is not None:
            return spec, (first, product)
    return None


def _pair_spec(first: ProductSpec, second: ProductSpec) -> ProductSpec | None:
    """What two linears compute together; None if the kernels do not read such a weight."""
    widths = (first.columns, second.columns)
    whole = _is_whole(first)
    group = gcd(*widths) if whole else first.group
    chunk = chunk_of(widths, group) if first.form == "int4" else 0
    if chunk is None or group % LEAST_GROUP or any(width % group for width in widths):
        return None
    bias = first.bias or second.bias
    return replace(first, columns=sum(widths), group=group, chunk=chunk, bias=bias, widths=widths, whole=whole)
