"""What a format of quantized checkpoints can say, and how it says it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from compiler.exporters.model import ExportedModel, ExportedTensor, QuantizedModule
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.ir.types import TensorType

HEADS = ("lm_head", "embed_out")
"""What families call the head."""
EMBEDDINGS = ("embed_tokens", "embed_in", "wte")
"""What they call the embedding, to which a head may be tied."""


class Format(ABC):
    """A format of checkpoints in the Hugging Face layout.

    Attributes:
        name: what the command line calls it.
        summary: what it is, in a line.
        has_caches: whether caches may be quantized.
        has_divisors: whether activations may be divided by stored numbers.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    has_caches: ClassVar[bool] = False
    has_divisors: ClassVar[bool] = False

    def refusals(self, model: ExportedModel) -> Iterable[str]:
        """Why the format cannot say what a model is, a clause for each reason, the first of which is shown.

        A clause goes on after `the format NAME`: `has no place for quantized caches`.
        """
        if self.needs_quantized(model):
            yield "is one of quantized checkpoints, and nothing of the model is quantized"
        for module in model.quantized.values():
            if (reason := self.refusal(module)) is not None:
                yield f"{reason}, as {module.name} has"
        yield from self.refusals_of_model(model)

    def needs_quantized(self, model: ExportedModel) -> bool:
        """Whether the model is not quantized, and has to be."""
        return not model.quantized

    @abstractmethod
    def refusal(self, module: QuantizedModule) -> str | None:
        """Why a module cannot be said; None if it can."""

    def refusals_of_model(self, model: ExportedModel) -> Iterable[str]:
        """Why the model as a whole cannot be said, though every module can."""
        if model.caches and not self.has_caches:
            yield "has no place for quantized caches"
        if model.divisors and not self.has_divisors:
            yield f"has no place for what activations are divided by, as {model.divisors[0]}"

    @abstractmethod
    def tensors(self, b: Builder, module: QuantizedModule) -> list[ExportedTensor]:
        """The tensors of a quantized module, which may append ops for them."""

    def cache_tensors(self, b: Builder, model: ExportedModel) -> list[ExportedTensor]:
        """The tensors of quantized caches."""
        return []

    @abstractmethod
    def config(self, model: ExportedModel) -> dict[str, Any] | None:
        """What `config.json` says under `quantization_config`; None for nothing."""


def unquantized(model: ExportedModel) -> list[str]:
    """The linears that are not quantized, without the head."""
    return [name for name in model.others if name not in HEADS and name.rpartition(".")[2] not in EMBEDDINGS]


def wanted_group(model: ExportedModel) -> int:
    """The number of inputs that share a scale, of a model where it is the same everywhere."""
    return next(iter(model.quantized.values())).group


def input_refusal(module: QuantizedModule, *, order: bool = False, divisors: bool = False) -> str | None:
    """What is done to a module's inputs that a format has no place for; None if there is nothing."""
    form = module.input
    if form.dtype is not None:
        by = "a scale for each token" if form.by == "token" else "a scale from calibration"
        return f"has no place for inputs that are rounded to {kind_of(form.dtype)} by {by}"
    if form.factor is not None and not (divisors and form.divisors):
        return "has no place for factors of inputs"
    if form.order is not None and not order:
        return "has no place for inputs in another order"
    return None


def kind_of(dtype: DType) -> str:
    """A quantized type as users call it: `int8`, `fp8`."""
    return {DType.i8: "int8", DType.i4: "int4", DType.f8e4m3: "fp8"}[dtype]


def as_stored(b: Builder, name: str, value: Value, shape: tuple[int, ...] | None = None) -> ExportedTensor:
    """A tensor that is stored as it is in the graph, under another shape if one is given."""
    # An op even if the shape is the same: a literal is not among what is computed from weights.
    made = b.reshape(value, shape=value.type.shape if shape is None else shape, name="stored")
    return ExportedTensor(name, made.type, made)


def scales_of(b: Builder, module: QuantizedModule, name: str, *, turned: bool = False) -> ExportedTensor:
    """The scales of a weight, `[N, groups]`, or turned, in the type in which they lose nothing."""
    rows, columns = module.scale.type.sizes({})
    scale = b.reshape(module.scale, shape=(rows, columns), name="scale")
    dtype = module.scale_dtype
    if turned:
        scale = b.transpose(scale, perm=(1, 0), name="scale.turned")
    if dtype is not scale.type.dtype:
        scale = b.cast(scale, dtype=dtype, name="scale.narrow")
    return ExportedTensor(f"{module.name}.{name}", scale.type, scale)


def by_rows(b: Builder, module: QuantizedModule) -> QuantizedModule:
    """A module each row of which has scales, and zero points if there are any, of its own."""
    out = module.sizes[0]
    if module.scale.type.shape[0] == out:
        return module
    rows = [
        None if value is None else b.broadcast(value, shape=(out, value.type.shape[1]), name="rows")
        for value in (module.scale, module.zero)
    ]
    scale, zero = rows
    assert scale is not None
    return replace(module, scale=scale, zero=zero)


def zeros_of(b: Builder, module: QuantizedModule) -> Value:
    """The zero points, those in the middle too."""
    if module.zero is not None:
        return b.reshape(module.zero, shape=module.zero.type.shape, name="zero")
    middle = b.literal(dtype=module.dtype, shape=(1, 1), values=(0,), name="middle")
    return b.broadcast(middle, shape=module.scale.type.shape, name="zero")


def inputs_in_order(b: Builder, module: QuantizedModule) -> Value:
    """The integers `[N, K]` with their columns in the order of the inputs."""
    if module.input.order is None:
        return b.reshape(module.q, shape=module.q.type.shape, name="q")
    columns = b.transpose(module.q, perm=(1, 0), name="columns")
    placed = b.embedding(columns, _places(b, module.input.order), name="placed")
    return b.transpose(placed, perm=(1, 0), name="q")


def group_index(b: Builder, module: QuantizedModule, name: str) -> ExportedTensor:
    """The group of each input, `i32[K]`."""
    width, group = module.sizes[1], module.block[1]
    if module.input.order is None:
        numbers = tuple(i // group for i in range(width))
        return as_stored(b, name, b.literal(dtype=DType.i32, shape=(width,), values=numbers, name="groups"))
    places = _places(b, module.input.order)
    return ExportedTensor(name, places.type, places, lambda x: (x // group).to(x.dtype))


def _places(b: Builder, order: Value) -> Value:
    """Where each input goes, `i32[K]`, if `order` says which input comes to each place."""
    (width,) = order.type.sizes({})
    return b.group_order(order, count=width, name="places")


def words_type(*shape: int) -> TensorType:
    """The type of packed integers."""
    return TensorType(DType.i32, shape)
