"""Linears as layers of the plug-in `llmc::product`, with the activations that follow them.

llmc's kernels then read the weights, which are inputs of the plans in the order that the kernels want. TensorRT need
not compile a product, so plans of 4-bit weights build in seconds, and all plans share one copy of a weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import prod

from compiler.backend_trt.emission import SHARED, Emission, TrtTensor, rule_of
from compiler.ir.analysis import packed_weights, stored_values
from compiler.ir.dtypes import DType
from compiler.ir.frozen import EMPTY
from compiler.ir.graph import Graph
from compiler.ir.int4 import chunk_of
from compiler.ir.op import Op, Value
from compiler.trt_network.dtypes import BY_DTYPE
from compiler.trt_network.plugin_class import plugin_of
from compiler.trt_network.products import ProductSpec
from compiler.trt_network.record import Arranged, TensorRecord, Weight

_FORMS = {DType.i8: "int8", DType.i4: "int4", DType.f8e4m3: "float8"}
_LEAST_GROUP = 32
_MOST_DENSE_ROWS = 64
# What the kernels' conversion of float8 to float16 makes of a number: it is by so much too small.
_FLOAT8_FACTOR = 256.0


@dataclass(frozen=True)
class PluginProduct:
    """A linear that becomes a layer of the plug-in.

    Attributes:
        quantize: the op that rounds its input to 8 bits; None if it is floats.
        packed: the op that dequantizes its weight; None of a dense one.
        activation: the op that follows and is computed with it; None if there is none.
        spec: what the layer computes.
    """

    quantize: Op | None
    packed: Op | None
    activation: Op | None
    spec: ProductSpec


def plugin_products(
    graph: Graph, kinds: Collection[str], rounded: Mapping[str, Op] = EMPTY
) -> Mapping[str, PluginProduct]:
    """The linears of a plan's graph that become layers of the plug-in, by their names.

    Args:
        graph: the graph of one plan.
        kinds: which linears: as `BuildOptions.plugins` has them.
        rounded: the ops that round inputs that are multiplied in 8 bits, by the names of what is read.
    """
    if not kinds:
        return {}
    packed, stored = packed_weights(graph), stored_values(graph)
    found = {}
    for op in graph.find("linear"):
        x, weight, *bias = op.operands
        if x.type.dtype not in SHARED or not all(value.name in stored for value in bias):
            continue
        dequantize, quantize = packed.get(weight.name), rounded.get(x.name)
        if dequantize is not None:
            wanted = ("rounded" if quantize else "products") in kinds
            spec = _quantized_spec(graph, op, dequantize) if wanted else None
        else:
            spec = _dense_spec(graph, op) if "dense" in kinds else None
        if spec is not None:
            activation = _activation(graph, op)
            name = _activation_name(activation) if activation else None
            spec = replace(spec, bias=bool(bias), activation=name)
            if quantize is not None:
                spec = replace(spec, rounded=BY_DTYPE[op.result.type.dtype].name)
            found[op.name] = PluginProduct(quantize, dequantize, activation, spec)
    return found


def _quantized_spec(graph: Graph, op: Op, dequantize: Op) -> ProductSpec | None:
    """What a linear over a quantized weight computes; None if the kernels do not read such a weight."""
    q, scale, *zero = dequantize.operands
    if q.type.rank != 2 or q.type.dtype not in _FORMS or (zero and q.type.dtype is DType.f8e4m3):
        return None
    if any(graph.producers[value.name].kind.name != "const" for value in dequantize.operands):
        return None
    form, (rows, columns) = _FORMS[q.type.dtype], q.type.sizes({})
    group = columns // scale.type.sizes({})[1]
    chunk = chunk_of((columns,), group) if form == "int4" else 0
    if chunk is None or (group % _LEAST_GROUP and (group != columns or form == "int4")):
        return None
    factor = _FLOAT8_FACTOR if form == "float8" and op.operands[0].type.dtype is DType.f16 else 1.0
    return ProductSpec(form, rows, columns, group, chunk, factor, bool(zero))


def _dense_spec(graph: Graph, op: Op) -> ProductSpec | None:
    """What a linear over a float weight computes; None if that is not for the kernels."""
    x, weight = op.operands[:2]
    if weight.name not in stored_values(graph) or weight.type.dtype is not x.type.dtype or weight.type.rank != 2:
        return None
    if not x.type.is_fixed or prod(x.type.sizes({})[:-1]) > _MOST_DENSE_ROWS:
        return None
    rows, columns = weight.type.sizes({})
    return ProductSpec("dense", rows, columns)


def _activation(graph: Graph, op: Op) -> Op | None:
    """The activation of a linear's result, if nothing else reads that."""
    users = tuple(graph.users.get(op.name, ()))
    if len(users) != 1 or op.result in graph.outputs.values():
        return None
    (user,) = users
    return user if user.kind.name in ("relu", "gelu", "silu") else None


def _activation_name(op: Op) -> str:
    return "gelu_tanh" if op.kind.name == "gelu" and op.attrs["tanh"] else op.kind.name


def emit_product(e: Emission, op: Op, product: PluginProduct) -> TrtTensor:
    """The layer of a linear; it stands for the activation's result, too, after which it is named then."""
    x, weight, *bias = op.operands
    inputs = _rounded(e, product.quantize) if product.quantize else [e[x]]
    inputs += _stored(e, product.packed, product.spec) if product.packed else [e[weight]]
    inputs += [_vector(e, bias[0])] if bias else []
    if product.activation is None:
        return e.plugin(plugin_of(e.trt, product.spec, e.kernels), inputs)
    e.op = product.activation
    tensor = e.plugin(plugin_of(e.trt, product.spec, e.kernels), inputs)
    e[product.activation.result] = tensor
    return tensor


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
    groups = spec.columns // spec.group
    shape: tuple[int, ...] = (spec.rows, spec.columns)
    if spec.form == "int4":
        shape = (spec.columns // spec.chunk, spec.rows, spec.chunk // 2)
        codes = _part(e, q, DType.i8, shape, _arranged(e, "codes", q, spec))
    else:
        dtype = DType.f8e4m3 if spec.form == "float8" and spec.rounded else DType.i8
        codes = _part(e, q, dtype, shape, Weight(_record(e, q).name))
    scales = _part(e, scale, DType.f32, (groups, spec.rows), _arranged(e, "scale", scale, spec))
    zeros = [_part(e, value, DType.i8, (groups, spec.rows), _arranged(e, "zero", value, spec)) for value in zero]
    return [codes, scales, *zeros]


def _part(e: Emission, value: Value, dtype: DType, shape: tuple[int, ...], weight: Weight) -> TrtTensor:
    name = f"{value.name}/{'x'.join(map(str, shape))}.{dtype}"

    def make() -> TrtTensor:
        e.weights[name] = weight
        return e.network.add_input(name, e.data_type(dtype), shape)

    return e.once(("product part", weight.source, str(dtype)), make)


def _arranged(e: Emission, part: str, value: Value, spec: ProductSpec) -> Weight:
    stored = _record(e, value)
    chunk = spec.chunk if part == "codes" else 0
    factor = spec.factor if part == "scale" else 1.0
    return Weight(stored.name, arranged=Arranged(part, stored, spec.rows, spec.columns, spec.group, chunk, factor))


def _record(e: Emission, value: Value) -> TensorRecord:
    """A constant as a tensor of the weights file."""
    const = e.graph.producers[value.name]
    return TensorRecord(const.attrs["data"].name, BY_DTYPE[value.type.dtype].name, value.type.sizes({}))


def _vector(e: Emission, bias: Value) -> TrtTensor:
    """A bias as an input, which all plans share; as a constant if it is not stored."""
    return e.once(("product bias", bias.name), lambda: e.shared(f"{bias.name}/vector", bias, bias.type.sizes({})))
