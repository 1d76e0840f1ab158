"""Reading a network back from TensorRT's own objects, as a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from compiler.errors import TargetError
from compiler.trt_network.plugin_spec import PluginSpec
from compiler.trt_network.record import LayerRecord, NetworkRecord, TensorRecord

# The class whose properties a layer of each kind has; the others have none.
_CLASSES = {
    "ACTIVATION": "IActivationLayer",
    "CAST": "ICastLayer",
    "CONCATENATION": "IConcatenationLayer",
    "CONSTANT": "IConstantLayer",
    "CUMULATIVE": "ICumulativeLayer",
    "DEQUANTIZE": "IDequantizeLayer",
    "DIST_COLLECTIVE": "IDistCollectiveLayer",
    "EINSUM": "IEinsumLayer",
    "ELEMENTWISE": "IElementWiseLayer",
    "FILL": "IFillLayer",
    "GATHER": "IGatherLayer",
    "IDENTITY": "IIdentityLayer",
    "KV_CACHE_UPDATE": "IKVCacheUpdateLayer",
    "MATRIX_MULTIPLY": "IMatrixMultiplyLayer",
    "NORMALIZATION": "INormalizationLayer",
    "QUANTIZE": "IQuantizeLayer",
    "REDUCE": "IReduceLayer",
    "ROTARY_EMBEDDING": "IRotaryEmbeddingLayer",
    "SCATTER": "IScatterLayer",
    "SELECT": "ISelectLayer",
    "SHAPE": "IShapeLayer",
    "SHUFFLE": "IShuffleLayer",
    "SLICE": "ISliceLayer",
    "SOFTMAX": "ISoftMaxLayer",
    "SQUEEZE": "ISqueezeLayer",
    "UNARY": "IUnaryLayer",
    "UNSQUEEZE": "IUnsqueezeLayer",
}
# Properties of every layer, which say nothing; except of layers whose own they are.
_SKIPPED = frozenset(
    {"name", "metadata", "num_inputs", "num_outputs", "num_ranks", "plugin", "type", "weights", "update_lengths"}
)
_OWN = {"ACTIVATION": frozenset({"type"}), "DIST_COLLECTIVE": frozenset({"num_ranks"})}


def read_back(trt: Any, network: Any, package: str) -> NetworkRecord:
    """The record of a network, without its profiles and the places of its constants.

    Raises:
        TargetError: if it has a kind of layer that cannot be read back.
    """
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    tensors = {tensor.name: _tensor(tensor) for tensor in inputs}
    layers = []
    for layer, record in _layers(trt, network):
        layers.append(record)
        tensors.update((output.name, _tensor(output)) for output in _ends(layer, "output"))
    return NetworkRecord(
        network.name, package, tensors, _sorted(layers), tuple(t.name for t in inputs), tuple(t.name for t in outputs)
    )


def _sorted(layers: list[LayerRecord]) -> tuple[LayerRecord, ...]:
    """The layers in an order in which every tensor is made before it is read; otherwise as they were added."""
    makers = {name: layer for layer in layers for name in layer.outputs}
    done: dict[str, LayerRecord] = {}
    for root in layers:
        stack = [root]
        while stack:
            layer = stack[-1]
            needed = [makers[name] for name in layer.inputs if name in makers and makers[name].name not in done]
            if needed:
                stack += reversed(needed)
            else:
                done.setdefault(stack.pop().name, layer)
    return tuple(done.values())


def _layers(trt: Any, network: Any) -> Iterator[tuple[Any, LayerRecord]]:
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        kind = layer.type.name
        if kind == "ATTENTION_INPUT":
            continue
        if kind == "ATTENTION_OUTPUT":
            layer.__class__ = trt.IAttentionOutputLayer
            yield layer, _attention(layer)
        elif kind == "PLUGIN_V3":
            yield layer, _plugin(trt, layer)
        elif kind in _CLASSES:
            layer.__class__ = getattr(trt, _CLASSES[kind])
            yield layer, _record(layer, kind)
        else:
            raise TargetError(f"the network has a layer {layer.name!r} of kind {kind}, which llmc cannot read back")


def _record(layer: Any, kind: str) -> LayerRecord:
    inputs = tuple(None if t is None else t.name for t in (layer.get_input(i) for i in range(layer.num_inputs)))
    return LayerRecord(
        layer.name, kind, inputs, tuple(t.name for t in _ends(layer, "output")), _params(layer, kind), layer.metadata
    )


def _plugin(trt: Any, layer: Any) -> LayerRecord:
    """A layer of one of llmc's plug-ins: its attributes, as the object has them that TensorRT was given."""
    name = layer.name
    layer.__class__ = trt.IPluginV3Layer
    plugin = layer.plugin
    spec = getattr(plugin, "spec", None)
    if not isinstance(spec, PluginSpec):
        raise TargetError(f"the network has a layer {name!r} of a plug-in that llmc cannot read back")
    record = _record(layer, f"{plugin.plugin_namespace}::{plugin.plugin_name}")
    return replace(record, params=spec.params)


def _attention(layer: Any) -> LayerRecord:
    attention = layer.attention
    lengths = (attention.key_value_lengths, attention.query_lengths)
    ends = [*(attention.get_input(i) for i in range(3)), attention.mask, *lengths]
    names = ("causal_kind", "decomposable", "key_value_form", "norm_op", "query_form")
    return LayerRecord(
        attention.name,
        "ATTENTION",
        tuple(None if tensor is None else tensor.name for tensor in ends),
        tuple(t.name for t in _ends(layer, "output")),
        {name: _plain(getattr(attention, name)) for name in names},
        attention.metadata,
    )


def _params(layer: Any, kind: str) -> dict[str, Any]:
    skipped = _SKIPPED - _OWN.get(kind, frozenset())
    if kind == "SHUFFLE":
        return _shuffle(layer)
    return {
        name: _plain(_property(layer, name))
        for name in dir(type(layer))
        if not name.startswith("_") and name not in skipped and not callable(getattr(type(layer), name))
    }


def _property(layer: Any, name: str) -> Any:
    """A property; None where TensorRT cannot tell it, as 1.6.1 cannot the `block_shape` of quantizing layers."""
    try:
        return getattr(layer, name)
    except RuntimeError:
        return None


def _shuffle(layer: Any) -> dict[str, Any]:
    """A permutation is stored with more dims than the tensor has."""
    rank, result = len(layer.get_input(0).shape), len(layer.get_output(0).shape)
    return {
        "first_transpose": list(layer.first_transpose)[:rank],
        "reshape_dims": _plain(layer.reshape_dims),
        "second_transpose": list(layer.second_transpose)[:result],
        "zero_is_placeholder": layer.zero_is_placeholder,
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "__members__"):
        return value.name
    try:
        return [int(item) for item in value]
    except (TypeError, ValueError):
        return None  # dims that are known at run time only


def _ends(layer: Any, which: str) -> list[Any]:
    return [getattr(layer, f"get_{which}")(i) for i in range(getattr(layer, f"num_{which}s"))]


def _tensor(tensor: Any) -> TensorRecord:
    return TensorRecord(tensor.name, tensor.dtype.name, tuple(tensor.shape))
