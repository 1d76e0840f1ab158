"""Adding layers of the plug-in `llmc::product` to a network, and the inputs for their weights."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any

from compiler.backend_trt.emission import Emission, TrtTensor, rule_of
from compiler.backend_trt.rules.plugin_joins import ProductLayer
from compiler.backend_trt.rules.plugin_products import PluginProduct
from compiler.backend_trt.rules.shape import sliced
from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from compiler.trt_network.dtypes import BY_DTYPE
from compiler.trt_network.plugin_class import plugin_of
from compiler.trt_network.plugin_spec import PluginSpec
from compiler.trt_network.products import ProductSpec
from compiler.trt_network.record import Arranged, Joined, TensorRecord, Weight


def emit_product(e: Emission, layer: ProductLayer) -> None:
    """Add a layer; it stands for the results of the linears with their activations, or for that of the sum."""
    spec = layer.spec
    inputs, starts = _inputs(e, layer)
    if any(starts):
        spec = replace(spec, starts=starts)
    added = add_plugin(e, spec, inputs)
    if layer.total is not None:
        e[layer.total.result] = _added_up(e, layer, e.layer(added, "product" if layer.others else ""))
        return
    if len(layer.products) > 1:
        tensor, start = e.layer(added, "joined"), 0
        for product in layer.products:
            set_columns(e, product.ops[-1], product.result, tensor, start)
            start += product.spec.rows
        return
    (product,) = layer.products
    e.op = product.ops[-1]
    e[product.result] = tensor = e.layer(added)
    e.columns[product.result.name] = tensor, 0


def add_plugin(e: Emission, spec: PluginSpec, inputs: Sequence[TrtTensor]) -> Any:
    """Add the layer of a plug-in, which has no name yet; None if TensorRT refuses it."""
    assert e.add_plugin is not None
    return e.add_plugin(e.network, inputs, plugin_of(e.trt, spec, e.kernels))


def split_columns(e: Emission, op: Op, read: Set[str]) -> bool:
    """Leave it to layers of plug-ins to take the results of an op for columns of what it splits; False if none do.

    Args:
        e: the emission.
        op: any op.
        read: the names of values whose columns such layers read, besides those of layers of products.
    """
    if op.kind.name != "split":
        return False
    x = op.operands[0]
    known = x.name in e.columns or any(value.name in read for value in op.results)
    if not known or op.attrs["axis"] % x.type.rank != x.type.rank - 1:
        return False
    tensor, start = e.columns.get(x.name) or (e[x], 0)
    for number, (result, size) in enumerate(zip(op.results, op.attrs["sizes"], strict=True)):
        set_columns(e, op, result, tensor, start, str(number))
        start += size
    return True


def set_columns(e: Emission, op: Op, value: Value, tensor: TrtTensor, start: int, detail: str = "") -> None:
    """Let columns of a tensor, from `start` on, stand for a value; they are cut out where a layer reads them alone.

    Args:
        e: the emission.
        op: the op that makes the value.
        value: the value.
        tensor: the tensor, with as many dims.
        start: the first of the columns.
        detail: what the layer that cuts does for the op.
    """

    def cut() -> TrtTensor:
        outer, e.op = e.op, op
        piece = sliced(e, tensor, value.type.rank - 1, start, value.type.shape, detail)
        e.op = outer
        return piece

    e.columns[value.name] = tensor, start
    e.later[value.name] = cut


def _added_up(e: Emission, layer: ProductLayer, tensor: TrtTensor) -> TrtTensor:
    """A product with what else is added to it."""
    assert layer.total is not None
    rank = layer.total.result.type.rank
    for number, value in enumerate(layer.others, 1):
        detail = "" if number == len(layer.others) else f"sum {number}"
        tensor = e.elementwise(e.ranked(value, rank), tensor, "SUM", detail)
    return tensor


def _inputs(e: Emission, layer: ProductLayer) -> tuple[list[TrtTensor], tuple[int, ...]]:
    """What a layer reads, and the first column that it reads of each input."""
    first = layer.products[0]
    own_inputs = layer.products if layer.total is not None else (first,)
    given: list[TrtTensor] = []
    starts: list[int] = []
    for product in own_inputs:
        x = product.linear.operands[0]
        if product.quantize is not None:
            given += _rounded(e, product.quantize)
            starts.append(0)
            continue
        tensor, start = e.columns.get(x.name) or (e[x], 0)
        given.append(tensor)
        starts.append(start)
    if first.packed is None:
        given.append(e[first.linear.operands[1]])
    elif len(layer.products) == 1:
        given += _stored(e, first.packed, layer.spec)
    else:
        given += _joined(e, layer)
    return [*given, *_bias(e, layer)], tuple(starts)


def _bias(e: Emission, layer: ProductLayer) -> list[TrtTensor]:
    if not layer.spec.bias:
        return []
    if len(layer.products) == 1:
        bias = layer.products[0].linear.operands[2]
        # An input, which all plans share; a constant if it is not stored.
        return [e.once(("product bias", bias.name), lambda: e.shared(f"{bias.name}/vector", bias, bias.type.sizes({})))]
    dtype = layer.products[0].linear.result.type.dtype
    parts = [product.linear.operands[2] if product.spec.bias else None for product in layer.products]
    return [_join(e, layer, "bias", parts, dtype, (layer.spec.rows,))]


def _joined(e: Emission, layer: ProductLayer) -> list[TrtTensor]:
    """The inputs of the network for the parts of several quantized weights."""
    spec = layer.spec
    groups, operands = (spec.columns // spec.group, spec.rows), [_packed(product) for product in layer.products]
    dtype, shape = _codes_form(spec)
    codes = _join(e, layer, "codes", [values[0] for values in operands], dtype, shape)
    scales = _join(e, layer, "scale", [values[1] for values in operands], DType.f32, groups)
    zeros = [_join(e, layer, "zero", [values[2] for values in operands], DType.i8, groups)] if spec.zero else []
    return [codes, scales, *zeros]


def _packed(product: PluginProduct) -> tuple[Value, ...]:
    assert product.packed is not None
    return product.packed.operands


def _codes_form(spec: ProductSpec) -> tuple[DType, tuple[int, ...]]:
    """The element type and the shape of the values of a quantized weight."""
    if spec.form == "int4":
        return DType.i8, (spec.columns // spec.chunk, spec.rows, spec.chunk // 2)
    return DType.f8e4m3 if spec.form == "float8" and spec.rounded else DType.i8, (spec.rows, spec.columns)


def _join(
    e: Emission, layer: ProductLayer, part: str, values: Sequence[Value | None], dtype: DType, shape: tuple[int, ...]
) -> TrtTensor:
    """The input for a part of all weights of a layer."""
    spec = layer.spec
    arranged = [
        None if value is None else _arranged(e, part, value, replace(product.spec, group=spec.group, chunk=spec.chunk))
        for value, product in zip(values, layer.products, strict=True)
    ]
    added_up = layer.total is not None
    grid = (tuple(arranged),) if added_up else tuple((each,) for each in arranged)
    sizes = (spec.rows,) if added_up else tuple(size for size, _ in spec.parts)
    known = next(value for value in values if value is not None)
    weight = Weight(_record(e, known).name, joined=Joined(grid, sizes, BY_DTYPE[dtype].name))
    return _part(e, known, dtype, shape, weight)


def _rounded(e: Emission, quantize: Op) -> list[TrtTensor]:
    """An input in 8 bits, and its scales: one, or one for each token."""
    scale = quantize.operands[1]

    def codes() -> TrtTensor:
        rule, op = rule_of("quantize"), e.op
        assert rule is not None
        e.op = quantize
        tensor = rule(e, quantize)
        e.op = op
        return tensor

    def scales() -> TrtTensor:
        if scale.name in e.stored:
            return e.constant(f"{scale.name}/product", e.source.tensor(scale).float().reshape(1))
        return e.cast(e[scale], DType.f32, "x scales")

    return [e.once(("rounded", quantize.name), codes), e.once(("x scales", scale.name), scales)]


def _stored(e: Emission, packed: Op, spec: ProductSpec) -> list[TrtTensor]:
    """The inputs of the network for the parts of a quantized weight."""
    q, scale, *zero = packed.operands

    def part(name: str, value: Value) -> Weight:
        arranged = _arranged(e, name, value, spec)
        return Weight(arranged.stored.name, arranged=arranged)

    dtype, shape = _codes_form(spec)
    groups = (spec.columns // spec.group, spec.rows)
    codes = _part(e, q, dtype, shape, part("codes", q) if spec.chunk else Weight(_record(e, q).name))
    scales = _part(e, scale, DType.f32, groups, part("scale", scale))
    return [codes, scales, *(_part(e, value, DType.i8, groups, part("zero", value)) for value in zero)]


def _part(e: Emission, value: Value, dtype: DType, shape: tuple[int, ...], weight: Weight) -> TrtTensor:
    name = f"{value.name}/{'x'.join(map(str, shape))}.{dtype}"

    def make() -> TrtTensor:
        e.weights[name] = weight
        return e.network.add_input(name, e.data_type(dtype), shape)

    return e.once(("product part", weight.source, str(dtype)), make)


def _arranged(e: Emission, part: str, value: Value, spec: ProductSpec) -> Arranged:
    chunk = spec.chunk if part == "codes" else 0
    factor = spec.factor if part == "scale" else 1.0
    return Arranged(part, _record(e, value), spec.rows, spec.columns, spec.group, chunk, factor)


def _record(e: Emission, value: Value) -> TensorRecord:
    """A constant as a tensor of the weights file."""
    const = e.graph.producers[value.name]
    return TensorRecord(const.attrs["data"].name, BY_DTYPE[value.type.dtype].name, value.type.sizes({}))
