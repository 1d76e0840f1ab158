"""Linears that layers of the plug-in `llmc::product` stand for, with the activations that follow them.

llmc's kernels then read the weights, which are inputs of the plans in the order that the kernels want. TensorRT need
not compile a product, so plans of 4-bit weights build in seconds, and all plans share one copy of a weight. Which
linears share a layer is decided in `plugin_joins`; `plugin_emission` adds the layers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import prod

from compiler.backend_trt.emission import SHARED
from compiler.ir.analysis import packed_weights, stored_values
from compiler.ir.dtypes import DType
from compiler.ir.frozen import EMPTY
from compiler.ir.graph import Graph
from compiler.ir.int4 import chunk_of
from compiler.ir.op import Op, Value
from compiler.trt_network.dtypes import BY_DTYPE
from compiler.trt_network.products import ProductSpec

_FORMS = {DType.i8: "int8", DType.i4: "int4", DType.f8e4m3: "float8"}
LEAST_GROUP = 32
"""Columns that share a scale: a multiple of this."""
_MOST_DENSE_ROWS = 64
# What the kernels' conversion of float8 to float16 makes of a number: it is by so much too small.
_FLOAT8_FACTOR = 256.0


@dataclass(frozen=True)
class PluginProduct:
    """A linear that the plug-in computes.

    Attributes:
        linear: the linear.
        quantize: the op that rounds its input to 8 bits; None if it is floats.
        packed: the op that dequantizes its weight; None of a dense one.
        activation: the op that follows and is computed with it; None if there is none.
        spec: what a layer computes that stands for it alone.
    """

    linear: Op
    quantize: Op | None
    packed: Op | None
    activation: Op | None
    spec: ProductSpec

    @property
    def ops(self) -> tuple[Op, ...]:
        """The linear and its activation."""
        return (self.linear,) if self.activation is None else (self.linear, self.activation)

    @property
    def result(self) -> Value:
        """What the last of these ops gives."""
        return self.ops[-1].result


def plugin_products(
    graph: Graph, kinds: Collection[str], rounded: Mapping[str, Op] = EMPTY
) -> Mapping[str, PluginProduct]:
    """The linears of a plan's graph that the plug-in computes, by their names.

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
            found[op.name] = PluginProduct(op, quantize, dequantize, activation, spec)
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
    if chunk is None or (group % LEAST_GROUP and (group != columns or form == "int4")):
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
