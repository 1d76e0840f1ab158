"""From a graph to a TensorRT network definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

import compiler.backend_trt.rules  # noqa: F401 - registers the rules
from compiler.backend_trt.constants import Constants, Load
from compiler.backend_trt.emission import COMPUTABLE, Emission, Rule, rule_of
from compiler.backend_trt.rounded import rounded_inputs
from compiler.backend_trt.rules.plugin_attention import PluginAttention, emit_attention, plugin_attention
from compiler.backend_trt.rules.plugin_emission import emit_product, split_columns
from compiler.backend_trt.rules.plugin_joins import product_layers
from compiler.backend_trt.rules.plugin_products import plugin_products
from compiler.errors import PluginError, TargetError
from compiler.ir.analysis import packed_weights, stored_values
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.mesh import received, sent
from compiler.ir.op import Op, Value
from compiler.ir.step import R
from compiler.plugins import blamed, place_of
from compiler.trt_network.plugin_layers import AddPlugin


class Plugins(NamedTuple):
    """Which ops become layers of plug-ins, and how such layers are added.

    Attributes:
        kinds: as `BuildOptions.plugins` has them.
        add: adds a layer; None if there are no kinds.
    """

    kinds: tuple[str, ...] = ()
    add: AddPlugin | None = None


NO_PLUGINS = Plugins()


def define_network(
    trt: Any,
    network: Any,
    graph: Graph,
    load: Load,
    types: Set[DType] = COMPUTABLE,
    plugins: Plugins = NO_PLUGINS,
) -> Emission:
    """Add the layers of a graph to an empty network.

    An input that nothing reads becomes none of the network. An output whose name an input has (a cache) gets the name
    of its value; the others get their role's.

    Args:
        trt: the TensorRT package.
        network: a strongly typed network.
        graph: a graph whose weights are stored tensors.
        load: gives the stored ones.
        types: the element types that its tensors may have.
        plugins: which ops become layers of plug-ins.

    Returns:
        What was made; it holds the memory of the constants, which must live until the network is built.

    Raises:
        TargetError: if TensorRT refuses a layer, naming the op and where it came from.
    """
    network.name = graph.name
    constant, packed = stored_values(graph), packed_weights(graph)
    rounded = rounded_inputs(graph, packed, constant)
    source = Constants(graph, load)
    emission = Emission(
        trt, network, graph, source, packed=packed, rounded=rounded, stored=constant, types=types,
        add_plugin=plugins.add,
    )  # fmt: skip
    products = plugin_products(graph, plugins.kinds, rounded)
    layers = {layer.at.name: layer for layer in product_layers(graph, products, plugins.kinds)}
    attentions = plugin_attention(graph, plugins.kinds)
    elsewhere = constant | packed.keys() | rounded.keys() | {op.name for op in rounded.values()}
    elsewhere |= {op.name for layer in layers.values() for op in layer.ops}
    elsewhere |= {op.name for layer in attentions.values() for op in layer.ops}
    unread = _unread(graph, attentions)
    rows = {value.name for layer in attentions.values() for value in layer.rows}
    live = _live_inputs(graph, unread, attentions)
    for value in graph.inputs:
        if value.name in live:
            emission[value] = _input(emission, value)
    for op in graph.ops:
        if op.name in unread:
            continue
        if op.name in attentions:
            with _naming(emission, op):
                emit_attention(emission, attentions[op.name])
        elif op.name in layers:
            with _naming(emission, op):
                emit_product(emission, layers[op.name])
        elif op.name not in elsewhere and not split_columns(emission, op, rows):
            _emit(emission, op, rule_of(op.kind.name))
    emission.op = None
    for role, value in graph.outputs.items():
        _mark_output(emission, role, value)
    return emission


def position_ends(graph: Graph) -> tuple[str, ...]:
    """What passes between stages and has a row for each wanted position, by the names in the network.

    Args:
        graph: a rank's graph whose dims are not fixed yet.
    """
    ends = [(link.name, link.value.type.shape) for link in (*received(graph), *sent(graph))]
    return tuple(name for name, shape in ends if shape[1:2] == (R,))


def _unread(graph: Graph, attentions: Mapping[str, PluginAttention]) -> set[str]:
    """The ops that only served attentions that plug-ins compute, such as those of masks."""
    inside = {op.name for layer in attentions.values() for op in layer.ops}
    read = {value.name for layer in attentions.values() for value in layer.reads}
    read |= {value.name for value in graph.outputs.values()}
    unread: set[str] = set()
    for op in reversed(graph.ops) if attentions else ():
        if op.name in inside:
            continue
        if any(value.name in read for value in op.results):
            read.update(value.name for value in op.operands)
        else:
            unread.add(op.name)
    return unread


def _live_inputs(graph: Graph, unread: Set[str], attentions: Mapping[str, PluginAttention]) -> set[str]:
    """The inputs that some layer will read: `kv_update` does without its count."""
    inside = unread | {op.name for layer in attentions.values() for op in layer.ops}
    read = {value.name for layer in attentions.values() for value in layer.reads}
    for op in graph.ops:
        if op.name not in inside:
            read.update(value.name for value in (op.operands[:3] if op.kind.name == "kv_update" else op.operands))
    return read | {value.name for value in graph.outputs.values()}


def _input(emission: Emission, value: Value) -> Any:
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in value.type.shape)
    tensor = emission.network.add_input(value.name, emission.data_type(value.type.dtype), shape)
    for axis, dim in enumerate(value.type.shape):
        if not isinstance(dim, int):
            tensor.set_dimension_name(axis, str(dim))
    return tensor


@contextmanager
def _naming(emission: Emission, op: Op) -> Iterator[None]:
    """A block that adds layers in the place of an op, which its errors name."""
    emission.op = op
    try:
        yield
    except TargetError as error:
        raise TargetError(f"{_where(op)}: {error.message}", hint=error.hint) from error


def _where(op: Op) -> str:
    return f"{op.kind.name} %{op.name} from {op.origin}"


def _emit(emission: Emission, op: Op, rule: Rule | None) -> None:
    if rule is None:
        raise TargetError(f"TensorRT has no rule for {_where(op)}")
    where = _where(op)
    with _naming(emission, op), blamed(rule, f"the TensorRT rule of {where}"):
        made = rule(emission, op)
    tensors = made if isinstance(made, tuple) else (made,)
    if len(tensors) != len(op.results) or any(tensor is None for tensor in tensors):
        raise PluginError(
            f"the TensorRT rule of {where} returned {made!r} ({place_of(rule)})",
            hint="it returns the tensor of the result, or a tuple with one for each result",
        )
    for value, tensor in zip(op.results, tensors, strict=True):
        emission[value] = tensor


def _mark_output(emission: Emission, role: str, value: Value) -> None:
    network = emission.network
    tensor = emission[value]
    inputs = {v.name for v in emission.graph.inputs}
    if value.name in emission.updates:
        pass  # TensorRT has no identity of FP8
    elif tensor.is_network_input or tensor.is_network_output or value.type.dtype is DType.bool:
        tensor = network.add_identity(tensor).get_output(0)
    tensor.name = value.name if role in inputs else role
    network.mark_output(tensor)
