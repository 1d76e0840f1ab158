"""A graph on its way to a model: what rules work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from compiler.errors import TargetError
from compiler.ir.analysis import packed_weights
from compiler.ir.dims import Dim
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.plugins import Registry
from llmc_onnx.data_file import Array, DataFile, external
from llmc_onnx.types import ELEMENT_TYPES, value_info

Rule = Callable[["Emission", Op], "str | Sequence[str]"]

RULES = Registry[Rule]("the op {!r} has a rule for ONNX already", TargetError)
"""The rules, by the kind of op. Each appends nodes, and returns the names of the op's results."""

MICROSOFT = "com.microsoft"
"""The domain of operators that onnxruntime has beside those of ONNX."""


def emits(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: register a rule for kinds of ops, also for those of plug-ins."""

    def register(rule: Rule) -> Rule:
        for kind in kinds:
            RULES.add(kind, rule, rule)
        return rule

    return register


class Emission:
    """The nodes and initializers of a model, as they come to be.

    Attributes:
        graph: the graph of a rank, its constants as they are stored.
        load: gives the values of a constant; not called before the data file is written.
        data: weights that the model has in a form of their own.
        round_inputs: whether what quantized weights multiply is rounded to 8 bits.
        nodes: the nodes so far.
        initializers: the constants so far.
        infos: the declared types of values so far.
    """

    def __init__(self, graph: Graph, load: Callable[[Value], Tensor], data: DataFile, *, round_inputs: bool) -> None:
        self.graph, self.load, self.data, self.round_inputs = graph, load, data, round_inputs
        self.nodes: list[NodeProto] = []
        self.initializers: list[Any] = []
        self.infos: list[Any] = []
        self.packed = packed_weights(graph)
        self._names: dict[str, str] = {value.name: value.name for value in graph.inputs}
        self._planned: dict[str, str] = {}  # what values are to be called that are outputs
        self._used: set[str] = set(self._names)
        self._known: dict[Any, str] = {}  # constants and sizes that were made already
        self._scope = ""

    def __getitem__(self, value: Value) -> str:
        """The name of a value in the model. Weights enter the model when they are first asked for."""
        if value.name not in self._names:
            op = self.graph.producers[value.name]
            self._names[value.name] = self._stored(value, op) if op.kind.name == "const" else self._emitted(op)[0]
        return self._names[value.name]

    def emit(self, op: Op) -> None:
        """Append an op; constants wait until they are used."""
        if op.kind.name != "const" and op.name not in self.packed:
            self._emitted(op)

    def declare(self, outputs: Mapping[str, Value]) -> None:
        """Say before the first op what the values are called that are outputs."""
        self._used.update(outputs)
        for name, value in outputs.items():
            if value.name in self.graph.producers:
                self._planned.setdefault(value.name, name)

    def finish(self, outputs: Mapping[str, Value]) -> None:
        """After the last op: copy what is an output twice, or is an input, too."""
        for name, value in outputs.items():
            if self[value] != name:
                self.nodes.append(helper.make_node("Identity", [self[value]], [name], name=name))

    def node(self, kind: str, *inputs: str, name: str = "", domain: str = "", outputs: int = 1, **attrs: Any) -> Any:
        """Append a node, and return the name of its result, or of all if it has several.

        Args:
            kind: the operator.
            inputs: the names of its inputs; empty for one that is left out.
            name: what the result is for, if it is not that of the op itself.
            domain: the operators' domain; that of ONNX if empty.
            outputs: how many results it has.
            attrs: the attributes; those that are None are left out.
        """
        names = [self._fresh(f"{self._scope}.{name or kind.lower()}") for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], domain=domain, **attrs))
        return names[0] if outputs == 1 else names

    def constant(self, values: Any, dtype: DType) -> str:
        """A small constant, which lies in the model itself."""
        array = _as(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self._fresh(f"constant.{len(self._known)}")
            self.initializers.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def size(self, dim: Dim) -> str:
        """A dim as `i64[1]`; symbols are read from the inputs of the step."""
        if isinstance(dim, int):
            return self.constant([dim], DType.i64)
        if dim not in self._known:
            self._known[dim] = self._computed(dim)
        return self._known[dim]

    def shape(self, dims: Sequence[Dim]) -> str:
        """Dims as `i64[rank]`."""
        if all(isinstance(dim, int) for dim in dims):
            return self.constant(list(dims), DType.i64)
        key = tuple(dims)
        if key not in self._known:
            with _Scope(self, "shapes"):
                self._known[key] = self.node("Concat", *map(self.size, dims), name="shape", axis=0)
        return self._known[key]

    def reshape(self, x: str, dims: Sequence[Dim], name: str = "") -> str:
        """`x` in another shape."""
        symbolic = [at for at, dim in enumerate(dims) if not isinstance(dim, int)]
        if len(symbolic) == 1 and 0 not in dims:
            known = [-1 if at in symbolic else dim for at, dim in enumerate(dims)]
            return str(self.node("Reshape", x, self.constant(known, DType.i64), name=name))
        return str(self.node("Reshape", x, self.shape(dims), name=name))

    def shared(self, key: tuple[Any, ...], make: Callable[[], Any]) -> str:
        """What was made under that key before, or is made now: for what several ops need."""
        if key not in self._known:
            with _Scope(self, "shared"):
                self._known[key] = str(make())
        return self._known[key]

    def axes(self, *axes: int) -> str:
        """Axes, as operators take them since opset 13."""
        return self.constant(list(axes), DType.i64)

    def cast(self, x: str, from_: DType, to: DType) -> str:
        """`x` in another element type."""
        return x if from_ is to else str(self.node("Cast", x, to=ELEMENT_TYPES[to], name=f"as_{to}"))

    def wide(self, value: Value) -> str:
        """A value in float32, to be computed with and rounded once."""
        return self.cast(self[value], value.type.dtype, DType.f32)

    def repacked(self, name: str, element_type: int, shape: tuple[int, ...], make: Callable[[], Array]) -> str:
        """A weight in a form of its own."""
        if name not in self._used:
            self._used.add(name)
            self.initializers.append(self.data.add(name, element_type, shape, make))
        return name

    def _emitted(self, op: Op) -> list[str]:
        rule = RULES.find(op.kind.name)
        if rule is None:
            raise TargetError(
                f"{op.kind.name} %{op.name} from {op.origin} has no rule for ONNX",
                hint=f"register one: @llmc_onnx.emission.emits({op.kind.name!r}), or rewrite it into other ops",
            )
        for value in op.results:
            if value.type.dtype not in ELEMENT_TYPES and value.type.dtype is not DType.i4:
                raise TargetError(
                    f"%{value.name} is {value.type}, in which onnxruntime does not compute on a CPU",
                    hint="compile with --dtype float32 or --dtype float16",
                )
        before = len(self.nodes)
        with _Scope(self, op.name):
            made = rule(self, op)
        names = [made] if isinstance(made, str) else list(made)
        for value, name in zip(op.results, names, strict=True):
            self._names[value.name] = self._renamed(name, value, before)
        return [self._names[value.name] for value in op.results]

    def _renamed(self, name: str, value: Value, before: int) -> str:
        """Call what a node of the op has made after the value that it is; what was there before stays what it is."""
        made = self.nodes[before:]
        if not any(name in node.output for node in made):
            return name
        wanted = self._planned.pop(value.name, None) or self._fresh(value.name)
        for node in made:
            node.output[:] = [wanted if output == name else output for output in node.output]
            node.input[:] = [wanted if used == name else used for used in node.input]
            node.name = wanted if node.name == name else node.name
        self.infos.append(value_info(wanted, value.type))
        return wanted

    def _stored(self, value: Value, op: Op) -> str:
        """A constant, where the engine stores it; two numbers of a byte are stored as two bytes here."""
        ref, name = op.attrs["data"], self._fresh(value.name)
        shape = value.type.sizes({})
        if value.type.dtype is DType.i4:
            self.initializers.append(
                self.data.add(name, TensorProto.INT8, shape, lambda: self.load(value).numpy().reshape(shape))
            )
        else:
            if value.type.dtype not in ELEMENT_TYPES:
                raise TargetError(
                    f"the weight %{value.name} is {value.type}, which onnxruntime does not take on a CPU",
                    hint="compile with --dtype float32 or --dtype float16",
                )
            kind = ELEMENT_TYPES[value.type.dtype]
            self.initializers.append(external(name, kind, shape, ref.file, ref.offset, value.type.nbytes))
        return name

    def _computed(self, dim: Any) -> str:
        total = ""
        with _Scope(self, "sizes"):
            for symbol, factor in dim.terms:
                term = self._symbol(symbol)
                if factor != 1:
                    term = self.node("Mul", term, self.constant([factor], DType.i64))
                total = self.node("Add", total, term) if total else term
            return str(self.node("Add", total, self.constant([dim.offset], DType.i64))) if dim.offset else total

    def _symbol(self, symbol: str) -> str:
        """The size of a symbolic dim, from an input that has it."""
        key = ("symbol", symbol)
        if key not in self._known:
            value, at, factor, offset = self._measured(symbol)
            size = self.node("Shape", self[value], start=at, end=at + 1, name=symbol)
            if offset:
                size = self.node("Sub", size, self.constant([offset], DType.i64), name=symbol)
            if factor != 1:
                size = self.node("Div", size, self.constant([factor], DType.i64), name=symbol)
            self._known[key] = size
        return self._known[key]

    def _measured(self, symbol: str) -> tuple[Value, int, int, int]:
        """An input, and its axis whose size is `factor * symbol + offset`; the axis with the least of both."""
        found = [
            (value, at, dim.terms[0][1], dim.offset)
            for value in self.graph.inputs
            for at, dim in enumerate(value.type.shape)
            if not isinstance(dim, int) and len(dim.terms) == 1 and dim.terms[0][0] == symbol
        ]
        if not found:
            raise TargetError(f"no input of {self.graph.name} has the dim {symbol}, so that its size is not known")
        return min(found, key=lambda place: place[2:])

    def _fresh(self, name: str) -> str:
        found, count = name, 1
        while found in self._used:
            count += 1
            found = f"{name}.{count}"
        self._used.add(found)
        return found


class _Scope:
    """What the names of nodes begin with for a while."""

    def __init__(self, emission: Emission, name: str) -> None:
        self._emission, self._name, self._before = emission, name, emission._scope

    def __enter__(self) -> None:
        self._emission._scope = self._name

    def __exit__(self, *error: object) -> None:
        self._emission._scope = self._before


def _as(values: Any, dtype: DType) -> Array:
    kinds: dict[DType, Any] = {
        DType.f32: np.float32, DType.f16: np.float16, DType.i64: np.int64, DType.i32: np.int32,
        DType.i8: np.int8, DType.u8: np.uint8, DType.bool: np.bool_,
    }  # fmt: skip
    return np.asarray(values).astype(kinds[dtype])
