"""The tensors of a checkpoint, made of the values of a graph: what a frontend cuts is joined, and so on.

The frontend's own ops, as they are in the template, say how: each is undone, from the values that stand for weights to
the tensor that they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from compiler.errors import ExportError
from compiler.exporters.correspondence import Correspondence, op_error
from compiler.exporters.inputs import InputForm
from compiler.exporters.model import CacheModule, ExportedModel, QuantizedModule
from compiler.ir.builder import Builder
from compiler.ir.constants import stream_constants
from compiler.ir.dtypes import DType
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import eliminate_dead

_MOVES = frozenset({"reshape", "transpose", "slice", "split", "concat", "broadcast"})
_NARROW = frozenset({DType.f16, DType.bf16})

Leaf = Callable[[Value], Value | None]
"""What stands for a value of the template; None if only what is made of it is known."""


class Assembly:
    """Tensors under construction, as ops over the constants of a graph.

    Attributes:
        b: what the ops are appended with.
        notes: what the user may want to know.
    """

    def __init__(self, found: Correspondence) -> None:
        self.found = found
        self.template = found.template
        self.notes: list[str] = []
        self.b = Builder(found.graph.name)
        self.b.ops = list(found.graph.ops)
        self.b.taken = set(found.graph.values)
        self.b.prefix = "export."

    def model(self) -> ExportedModel:
        """The model as a checkpoint holds it.

        Raises:
            ExportError: if a tensor of the checkpoint consists of parts that differ in how they are quantized.
        """
        self._leave_biases_out()
        order = {name: i for i, name in enumerate(self.template.graph.values)}
        parts: dict[str, list[Value]] = {}
        for value in sorted(self.found.linears.values(), key=lambda value: order[value.name]):
            parts.setdefault(self.template.tensor_of(value), []).append(value)
        quantized = {
            tensor: self._module(tensor, values)
            for tensor, values in parts.items()
            if any(value.name in self.found.quantized for value in values)
        }
        plain = {
            tensor: stored
            for tensor, op in self.template.weights.items()
            if tensor not in quantized and (stored := self._undone(op.result, self._plain)) is not None
        }
        divisors = {module.input.divisors for module in quantized.values()}
        missing = [t for t in self.template.weights if t not in (*quantized, *plain, *divisors) and self._is_needed(t)]
        if missing:
            raise ExportError(f"nothing in the graph stands for the tensor {missing[0]!r} of its family's checkpoints")
        return ExportedModel(
            config=self.template.config,
            names=tuple(self.template.weights),
            plain=plain,
            divisors=tuple(tensor for tensor in plain if not self._is_needed(tensor)),
            quantized={module.name: module for module in quantized.values()},
            others=tuple(tensor.removesuffix(".weight") for tensor in parts if tensor not in quantized),
            caches=tuple(
                CacheModule(scale.module, scale.which, scale.dtype, scale.scale) for scale in self.found.caches.values()
            ),
            cache_count=self.found.cache_count,
        )

    def graph(self, outputs: Mapping[str, Value]) -> Graph:
        """A graph that gives some of the values made so far."""
        whole = replace(self.found.graph, inputs=(), ops=tuple(self.b.ops), outputs=FrozenDict(outputs))
        return eliminate_dead(whole)

    def _leave_biases_out(self) -> None:
        """Leave out biases that the family has not, which some tools store, if they are zero throughout.

        Raises:
            ExportError: naming the linear, if one is not.
        """
        # An op each: literals are not among what is computed.
        made = {
            name: self.b.reshape(bias, shape=bias.type.shape, name="bias") for name, bias in self.found.biases.items()
        }
        linears = {value.name: name for name, value in made.items()}
        computed = stream_constants(self.graph({value.name: value for value in made.values()}))
        used = {linears[value.name] for value, data in computed if bool(data.any())}
        graph = self.found.graph
        first = next((op for op in graph.ops if op.name in (used or made)), None)
        if used and first is not None:
            raise op_error(graph, first, "has a bias, which the family has not")
        if first is not None:
            self.notes.append(
                f"linears, such as %{first.name}, have biases of zeros, which the family has not: left out"
            )

    def _is_needed(self, tensor: str) -> bool:
        """Whether every checkpoint of the family has a tensor."""
        users = self.template.graph.users.get(self.template.weights[tensor].name, ())
        return not any(self.template.divisors(op) for op in users)

    def _plain(self, value: Value) -> Value | None:
        return self.found.plain.get(value.name)

    def _module(self, tensor: str, values: Sequence[Value]) -> QuantizedModule:
        name = tensor.removesuffix(".weight")
        if self._is_turned(self.template.weights[tensor].result):
            raise ExportError(
                f"the family stores {tensor!r} with a row for each input, for which no format of quantized weights has "
                "a place",
                hint=f"leave it as it is: skip={name}",
            )
        weights = [self.found.quantized.get(value.name) for value in values]
        known = [weight for weight in weights if weight is not None]
        forms = [self.found.inputs.get(value.name, InputForm()) for value in values]
        alike = {(w.q.type.dtype, w.scale.type.shape[1] if w.scale.type.shape[0] != 1 else 1) for w in known}
        if len(known) < len(weights) or len(alike) > 1 or any(form != forms[0] for form in forms):
            raise ExportError(
                f"the parts of {tensor!r} are quantized differently, and a checkpoint has one tensor for all of them",
                hint=f"quantize all of it or none: skip={name}",
            )
        by_name = dict(zip([value.name for value in values], known, strict=True))
        whole = self.template.weights[tensor].result
        fused = whole.name not in by_name
        has_zero = any(weight.zero is not None for weight in known)

        def q(value: Value) -> Value | None:
            return by_name[value.name].q if value.name in by_name else None

        def scale(value: Value) -> Value | None:
            if value.name not in by_name:
                return None
            return self._by_row(by_name[value.name].scale, value, fused)

        def zero(value: Value) -> Value | None:
            if value.name not in by_name:
                return None
            weight = by_name[value.name]
            shape, dtype = weight.scale.type.shape, weight.q.type.dtype
            found = weight.zero or self.b.literal(dtype=dtype, shape=shape, values=(0,), name="zero")
            return self._by_row(found, value, fused)

        made = [self._undone(whole, leaf) for leaf in ((q, scale, zero) if has_zero else (q, scale))]
        if any(value is None for value in made):
            raise ExportError(f"the parts of the graph that make up the tensor {tensor!r} are not all there")
        integers, scales, *zeros = [value for value in made if value is not None]
        dtype = self._narrowest([weight.scale for weight in known])
        return QuantizedModule(name, integers, scales, zeros[0] if zeros else None, forms[0], dtype)

    def _narrowest(self, scales: Sequence[Value]) -> DType:
        """The type of 16 bits that all scales were in before they were widened and moved about; else their own."""
        found: set[DType] = set()
        stack = list(scales)
        while stack:
            op = self.found.graph.producers[stack.pop().name]
            if op.kind.name in _MOVES:
                stack += op.operands
            else:
                source = op.operands[0] if op.kind.name == "cast" else op.results[0]
                found.add(source.type.dtype)
        own = scales[0].type.dtype
        return found.pop() if len(found) == 1 and found <= _NARROW else own

    def _is_turned(self, value: Value) -> bool:
        """Whether the template transposes a weight, or something that it cuts from it."""
        users = [op for op in self.template.graph.users.get(value.name, ()) if op.name in self.template.made_of_weights]
        return any(op.kind.name == "transpose" or any(self._is_turned(result) for result in op.results) for op in users)

    def _by_row(self, scale: Value, weight: Value, fused: bool) -> Value:
        """A scale for each row, where a tensor joins several weights that have one scale each."""
        rows, columns = scale.type.sizes({})
        if not fused or rows != 1:
            return scale
        return self.b.broadcast(scale, shape=(weight.type.shape[0], columns), name="by_row")

    def _undone(self, value: Value, leaf: Leaf) -> Value | None:
        """What stands for a value of the template: itself, or made of what stands for what is made of it."""
        known = leaf(value)
        if known is not None:
            return known
        for op in self.template.graph.users.get(value.name, ()):
            if op.name in self.template.made_of_weights and (found := self._undo(op, value, leaf)) is not None:
                return found
        return None

    def _undo(self, op: Op, value: Value, leaf: Leaf) -> Value | None:
        """The operand of an op of the template, from what stands for its results."""
        if op.kind.name not in ("reshape", "transpose", "split", "slice"):
            return None
        results = [self._undone(result, leaf) for result in op.results]
        parts = [part for part in results if part is not None]
        if len(parts) < len(results):
            return None
        b, name = self.b, value.name.rpartition(".")[2]
        if op.kind.name == "reshape":
            return b.reshape(parts[0], shape=_shape_like(value, parts[0]), name=name)
        if op.kind.name == "transpose":
            perm = op.attrs["perm"]
            return b.transpose(parts[0], perm=tuple(perm.index(i) for i in range(len(perm))), name=name)
        if op.kind.name == "split":
            return b.concat(*parts, axis=op.attrs["axis"], name=name)
        return self._unsliced(op, value, parts[0])

    def _unsliced(self, op: Op, value: Value, part: Value) -> Value:
        """What a slice was cut from, if the graph cuts it, too; else the slice, with zeros in place of the rest."""
        own = self.found.graph.producers.get(part.name)
        if own is not None and own.kind is op.kind and own.attrs == op.attrs:
            whole = own.operands[0]
            if whole.type.shape == value.type.shape:
                return whole
        axis, start = op.attrs["axis"] % value.type.rank, op.attrs["start"]
        after = value.type.shape[axis] - start - op.attrs["size"]
        pieces = [self._zeros(part, axis, start), part, self._zeros(part, axis, after)]
        self.notes.append(
            f"the tensor {self.template.tensor_of(value)!r} has {start + after} rows that no token uses: "
            "they are not in the graph, and zeros in the checkpoint"
        )
        return self.b.concat(*[piece for piece in pieces if piece is not None], axis=axis, name="whole")

    def _zeros(self, like: Value, axis: int, count: int) -> Value | None:
        shape = (*like.type.shape[:axis], count, *like.type.shape[axis + 1 :])
        return self.b.literal(dtype=like.type.dtype, shape=shape, values=(0.0,), name="unused") if count else None


def _shape_like(value: Value, part: Value) -> tuple[int, ...]:
    """The shape of a value of the template; with the columns of `part`, where it has one for several of the weight."""
    shape = value.type.sizes({})
    return shape if part.type.elements == value.type.elements else (*shape[:-1], part.type.sizes({})[-1])
