"""What the rules of the emitter work with: the network under construction, and the tensors made so far."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compiler.backend_trt.constants import Constants
from compiler.errors import TargetError
from compiler.ir.dims import Dim, Shape
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.int4 import pack_int4
from compiler.ir.op import Op, Value
from compiler.ir.torch_types import from_torch, to_torch
from compiler.plugins import Registry
from compiler.trt_network.dtypes import BY_DTYPE
from compiler.trt_network.plugin_class import PluginKernels
from compiler.trt_network.plugin_layers import AddPlugin
from compiler.trt_network.record import Constant, Weight

TrtTensor = Any
"""A `tensorrt.ITensor`; the package has no types."""

# A constant vector is named after its numbers, if they are few.
_NAMED = 6
COMPUTABLE = frozenset(BY_DTYPE) - {DType.i4, DType.u8}
"""The element types that an activation may have: i4 is for weights, and nothing computes in u8."""
SHARED = frozenset({DType.f32, DType.f16, DType.bf16})
"""The element types whose matrices are inputs of plans, which share them; others are constants of each plan."""


@dataclass
class Emission:
    """A network under construction.

    Attributes:
        trt: the TensorRT package.
        network: its network definition.
        graph: what is emitted.
        source: gives the values of constants; their memory must stay valid until the network is built.
        op: the op whose rule runs.
        weights: what lies at each input that is a weight, by the input's name.
        constants: where the values of each constant layer are, by the layer's name.
        updates: for each output that holds what is new in a cache, the cache's input.
        held: the values themselves, which must live until the network is built.
        packed: the ops that dequantize constants, by the name of the result.
        rounded: the `quantize` behind each input that linears multiply in 8 bits, by the input's name.
        stored: the names of all constants but dequantized ones.
        types: the element types that tensors may have.
        add_plugin: adds layers of plug-ins to the network; None where there shall be none.
        kernels: what the plug-in objects share; it must live until the builder is dropped.
        columns: for values that are some last columns of a tensor that a plug-in makes, the tensor and the first of
            these columns; layers of plug-ins can read them there.
        later: what makes the tensors of values that have none until a layer reads them, by the name of the value.
    """

    trt: Any
    network: Any
    graph: Graph
    source: Constants
    op: Op | None = None
    weights: dict[str, Weight] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    updates: dict[str, str] = field(default_factory=dict)
    held: dict[str, Tensor] = field(default_factory=dict)
    packed: Mapping[str, Op] = field(default_factory=dict)
    rounded: Mapping[str, Op] = field(default_factory=dict)
    stored: Set[str] = frozenset()
    types: Set[DType] = COMPUTABLE
    add_plugin: AddPlugin | None = None
    kernels: PluginKernels = field(default_factory=PluginKernels)
    columns: dict[str, tuple[TrtTensor, int]] = field(default_factory=dict, init=False)
    later: dict[str, Callable[[], TrtTensor]] = field(default_factory=dict, init=False)
    _tensors: dict[str, TrtTensor] = field(default_factory=dict)
    _shared: dict[tuple[Any, ...], TrtTensor] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)
    _values: set[str] = field(default_factory=set)

    # Tensors

    def __getitem__(self, value: Value) -> TrtTensor:
        """The tensor of a value; a constant is added when it is first asked for."""
        if value.name not in self._tensors and value.name in self.later:
            self[value] = self.later[value.name]()
        if value.name not in self._tensors:
            self._tensors[value.name] = self._constant_value(value, value.type.rank)
        return self._tensors[value.name]

    def __setitem__(self, value: Value, tensor: TrtTensor) -> None:
        """Let a tensor stand for a value. A tensor that stands for none yet gets the value's name."""
        if tensor.name not in self._values and not tensor.is_network_input:
            tensor.name = value.name
            self._values.add(value.name)
        self._tensors[value.name] = tensor

    def ranked(self, value: Value, rank: int) -> TrtTensor:
        """The tensor of a value with dims of 1 put in front until it has `rank` dims, as broadcasting wants it."""
        missing = rank - value.type.rank
        if missing == 0:
            return self[value]
        key = ("ranked", value.name, rank)
        if key not in self._shared:
            if value.name in self.graph.producers and value.name not in self._tensors and value.name not in self.later:
                self._shared[key] = self._constant_value(value, rank)
            else:
                axes = self.integers(range(missing))
                self._shared[key] = self.layer(self.network.add_unsqueeze(self[value], axes), f"{rank}d", owner=value)
        return self._shared[key]

    def _constant_value(self, value: Value, rank: int) -> TrtTensor:
        """A constant: a matrix of weights as an input, which all plans share; anything else as a layer of this plan."""
        missing = rank - value.type.rank
        name = f"{value.name}/{rank}d" if missing else value.name
        if value.type.rank > 1 and value.type.dtype in SHARED:
            return self.shared(name, value, (1,) * missing + value.type.sizes({}))
        return self.constant(name, self.source.tensor(value)[(None,) * missing], self.source.weight(value))

    def shared(self, name: str, value: Value, shape: tuple[int, ...]) -> TrtTensor:
        """A constant as an input of that shape, which all plans share; one that is not stored as a layer."""
        weight = self.source.weight(value)
        if weight is None:
            return self.constant(name, self.source.tensor(value).reshape(shape))
        self.weights[name] = weight
        return self.network.add_input(name, self.data_type(value.type.dtype), shape)

    def constant(
        self, name: str, data: Tensor, weight: Weight | None = None, *, dtype: DType | None = None
    ) -> TrtTensor:
        """A constant layer over the memory of `data`.

        Args:
            name: what it is called.
            data: the values; i4 as int8.
            weight: where the weights file has the same values.
            dtype: the element type, if it is not the data's.
        """
        shape, count = tuple(data.shape), data.numel()
        data = pack_int4(data) if dtype is DType.i4 else data.contiguous()
        unique = self._unique(name)
        self.held[unique] = data
        self.constants[unique] = weight or bytes(data.reshape(-1).view(torch.uint8).numpy().data)
        # Nothing computes in i4: it is for weights that are dequantized.
        kind = self.trt.DataType.INT4 if dtype is DType.i4 else self.data_type(dtype or from_torch(data.dtype))
        weights = self.trt.Weights(kind, data.data_ptr(), count)
        return self._named(self.network.add_constant(shape, weights), unique)

    def number(self, value: float, dtype: DType, rank: int) -> TrtTensor:
        """A constant of one element and `rank` dims, one layer for all its uses."""
        key = ("number", repr(value), dtype, rank)
        if key not in self._shared:
            data = torch.full((1,) * rank, value, dtype=to_torch(dtype))
            self._shared[key] = self.constant(f"numbers/{value:g}.{dtype}.{rank}d", data)
        return self._shared[key]

    def one(self) -> TrtTensor:
        """The scale of what is quantized as it is."""
        return self.number(1.0, DType.f32, 0)

    def vector(self, values: Sequence[float], dtype: DType, rank: int = 1) -> TrtTensor:
        """A constant of `rank` dims, all but the last of them 1, one layer for all its uses."""
        values = tuple(values)
        key = ("vector", values, dtype, rank)
        if key not in self._shared:
            data = torch.tensor(values, dtype=to_torch(dtype)).reshape(*(1,) * (rank - 1), len(values))
            name = "_".join(map(str, values)) if len(values) <= _NAMED else f"{len(values)}"
            self._shared[key] = self.constant(f"vectors/{name}.{dtype}", data)
        return self._shared[key]

    def integers(self, values: Sequence[int]) -> TrtTensor:
        """A vector of constants i64, one layer for all its uses."""
        return self.vector(values, DType.i64)

    # Shapes

    def shape(self, shape: Shape) -> TrtTensor:
        """A vector i64 that holds a shape at run time."""
        key = ("shape", shape)
        if key not in self._shared:
            parts = [self.size(dim) for dim in shape]
            if len(parts) == 1:
                return parts[0]
            name = "x".join(map(str, shape))
            self._shared[key] = self._named(self.network.add_concatenation(parts), self._unique(f"shapes/{name}"))
        return self._shared[key]

    def size(self, dim: Dim) -> TrtTensor:
        """A vector i64 of one element: the size of a dim at run time."""
        if isinstance(dim, int):
            return self.integers([dim])
        key = ("size", str(dim))
        if key not in self._shared:
            total = None if dim.offset == 0 else self.integers([dim.offset])
            for name, coefficient in dim.terms:
                term = self._symbol(name)
                if coefficient != 1:
                    term = self._integer_layer(f"{coefficient}*{name}", term, self.integers([coefficient]), "PROD")
                total = term if total is None else self._integer_layer(str(dim), total, term, "SUM")
            self._shared[key] = total
        return self._shared[key]

    def _integer_layer(self, name: str, a: TrtTensor, b: TrtTensor, operation: str) -> TrtTensor:
        layer = self.network.add_elementwise(a, b, getattr(self.trt.ElementWiseOperation, operation))
        return self._named(layer, self._unique(f"shapes/{name}"))

    def _symbol(self, name: str) -> TrtTensor:
        key = ("symbol", name)
        if key not in self._shared:
            value, axis = self._shown(name)
            shape = self._shared.get(("shape of", value.name))
            if shape is None:
                shape = self._named(self.network.add_shape(self[value]), self._unique(f"shapes/of {value.name}"))
                self._shared["shape of", value.name] = shape
            piece = self.network.add_slice(shape, (axis,), (1,), (1,))
            self._shared[key] = self._named(piece, self._unique(f"shapes/{name}"))
        return self._shared[key]

    def _shown(self, name: str) -> tuple[Value, int]:
        """An input of the network that has the symbol as a dim, and which dim."""
        for value in self.graph.inputs:
            for axis, dim in enumerate(value.type.shape):
                if str(dim) == name and value.name in self._tensors:
                    return value, axis
        raise TargetError(f"no input that TensorRT reads has the dim {name} by itself, so its size is not known")

    # Layers

    def layer(self, layer: Any, detail: str = "", *, owner: Value | None = None) -> TrtTensor:
        """Name a new layer after the op that is being emitted, note its origin, and return its first output.

        Args:
            layer: the layer; None if TensorRT refused it.
            detail: what the layer does for the op; empty for the one that makes the op's result.
            owner: the value it serves, if not the op's own.

        Raises:
            TargetError: if TensorRT refused the layer.
        """
        assert self.op is not None
        name = owner.name if owner else self.op.name
        return self._named(layer, self._unique(f"{name}/{detail}" if detail else name))

    def cast(self, tensor: TrtTensor, dtype: DType, detail: str = "") -> TrtTensor:
        """The tensor in another element type; itself if it has that type."""
        wanted = self.data_type(dtype)
        return tensor if tensor.dtype == wanted else self.layer(self.network.add_cast(tensor, wanted), detail)

    def elementwise(self, a: TrtTensor, b: TrtTensor, operation: str, detail: str = "") -> TrtTensor:
        """`a operation b`, named like a member of `tensorrt.ElementWiseOperation`."""
        return self.layer(self.network.add_elementwise(a, b, getattr(self.trt.ElementWiseOperation, operation)), detail)

    def gather(self, tensor: TrtTensor, indices: Sequence[int], axis: int, detail: str) -> TrtTensor:
        """The given places of a tensor along an axis."""
        return self.layer(self.network.add_gather(tensor, self.vector(indices, DType.i32), axis), detail)

    def plugin(self, plugin: Any, inputs: Sequence[TrtTensor]) -> TrtTensor:
        """Add a layer of a plug-in, named after the op that is being emitted; returns its output."""
        assert self.add_plugin is not None
        return self.layer(self.add_plugin(self.network, inputs, plugin))

    def attention(self, attention: Any) -> TrtTensor:
        """Name an attention after the op that is being emitted; returns its output."""
        assert self.op is not None
        attention.name = self._unique(self.op.name)
        attention.metadata = json.dumps(_origin(self.op))
        output = attention.get_output(0)
        output.name = attention.name
        return output

    def once(self, key: tuple[str, ...], make: Callable[[], TrtTensor]) -> TrtTensor:
        """The tensor that `make` adds when it is first asked for: for what the layers of a model share."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def data_type(self, dtype: DType) -> Any:
        """TensorRT's name of an element type; TargetError for one that it does not compute in."""
        if dtype not in self.types:
            raise TargetError(f"TensorRT has no tensors of {dtype}")
        return getattr(self.trt.DataType, BY_DTYPE[dtype].name)

    def _named(self, layer: Any, name: str) -> TrtTensor:
        if layer is None:
            raise TargetError(f"TensorRT refuses the layer {name!r}")
        layer.name = name
        layer.metadata = json.dumps(_origin(self.op)) if self.op else ""
        output = layer.get_output(0)
        output.name = name
        return output

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}#{count}" if count else name


def _origin(op: Op) -> Mapping[str, Any]:
    return {"op": op.name, "kind": op.kind.name, "module": op.origin.module, "passes": list(op.origin.passes)}


Rule = Callable[[Emission, Op], "TrtTensor | tuple[TrtTensor, ...]"]
RULES = Registry[Rule]("the op {!r} has a rule for TensorRT already", TargetError)
"""The rules, by the kind of op."""


def emits(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: the function adds the layers of ops of these kinds, and returns the tensors of their results.

    Raises:
        TargetError: if one of the kinds has a rule already.
    """

    def register(rule: Rule) -> Rule:
        for kind in kinds:
            RULES.add(kind, rule, rule)
        return rule

    return register


def rule_of(kind: str) -> Rule | None:
    """The rule that emits ops of a kind, if there is one."""
    return RULES.find(kind)
