"""What the rules of the emitter work with: the network under construction, and the tensors made so far."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compiler.errors import TargetError
from compiler.ir.dims import Dim, Shape
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.torch_types import to_torch

TrtTensor = Any
"""A `tensorrt.ITensor`; the package has no types."""

_DATA_TYPES = {
    DType.f32: "FLOAT",
    DType.f16: "HALF",
    DType.bf16: "BF16",
    DType.i64: "INT64",
    DType.i32: "INT32",
    DType.i8: "INT8",
    DType.bool: "BOOL",
}
COMPUTABLE = frozenset(_DATA_TYPES)
"""The element types that an activation may have."""


@dataclass
class Emission:
    """A network under construction.

    Attributes:
        trt: the TensorRT package.
        network: its network definition.
        graph: what is emitted.
        load: gives the value of a constant; the memory must stay valid until the network is built.
        op: the op whose rule runs.
        constants: the bytes behind each constant layer, by the layer's name.
    """

    trt: Any
    network: Any
    graph: Graph
    load: Callable[[Value], Tensor]
    op: Op | None = None
    constants: dict[str, Tensor] = field(default_factory=dict)
    _tensors: dict[str, TrtTensor] = field(default_factory=dict)
    _shared: dict[tuple[Any, ...], TrtTensor] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)

    # Tensors

    def __getitem__(self, value: Value) -> TrtTensor:
        """The tensor of a value; a constant becomes a layer when it is first asked for."""
        if value.name not in self._tensors:
            self._tensors[value.name] = self.constant(value.name, self.load(value))
        return self._tensors[value.name]

    def __setitem__(self, value: Value, tensor: TrtTensor) -> None:
        self._tensors[value.name] = tensor

    def ranked(self, value: Value, rank: int) -> TrtTensor:
        """The tensor of a value with dims of 1 put in front until it has `rank` dims, as broadcasting wants it."""
        missing = rank - value.type.rank
        if missing == 0:
            return self[value]
        key = ("ranked", value.name, rank)
        if key not in self._shared:
            if value.name not in self._tensors:
                data = self.load(value)
                self._shared[key] = self.constant(f"{value.name}/{rank}d", data[(None,) * missing])
            else:
                axes = self.integers(range(missing))
                self._shared[key] = self.layer(self.network.add_unsqueeze(self[value], axes), f"{rank}d", owner=value)
        return self._shared[key]

    def constant(self, name: str, data: Tensor) -> TrtTensor:
        """A constant layer over the memory of `data`."""
        data = data.contiguous()
        unique = self._unique(name)
        self.constants[unique] = data
        kind = self._data_type_of(data)
        weights = self.trt.Weights(kind, data.data_ptr(), data.numel())
        layer = self.network.add_constant(tuple(data.shape), weights)
        return self._named(layer, unique)

    def number(self, value: float, dtype: DType, rank: int) -> TrtTensor:
        """A constant of one element and `rank` dims, one layer for all its uses."""
        key = ("number", repr(value), dtype, rank)
        if key not in self._shared:
            data = torch.full((1,) * rank, value, dtype=to_torch(dtype))
            self._shared[key] = self.constant(f"numbers/{value:g}.{dtype}.{rank}d", data)
        return self._shared[key]

    def integers(self, values: Sequence[int]) -> TrtTensor:
        """A vector of constants i64, one layer for all its uses."""
        values = tuple(values)
        key = ("integers", values)
        if key not in self._shared:
            name = "_".join(map(str, values))
            self._shared[key] = self.constant(f"shapes/{name}", torch.tensor(values, dtype=torch.int64))
        return self._shared[key]

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
        try:
            return getattr(self.trt.DataType, _DATA_TYPES[dtype])
        except KeyError:
            raise TargetError(f"TensorRT has no tensors of {dtype}") from None

    def _data_type_of(self, data: Tensor) -> Any:
        return self.data_type(next(dtype for dtype in COMPUTABLE if to_torch(dtype) is data.dtype))

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
_RULES: dict[str, Rule] = {}


def emits(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: the function adds the layers of ops of these kinds, and returns the tensors of their results."""

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


def rule_of(kind: str) -> Rule | None:
    """The rule that emits ops of a kind, if there is one."""
    return _RULES.get(kind)
