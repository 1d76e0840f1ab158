"""The table of emulated layers: which kinds there are, which properties they need, and which values those may have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from compiler.errors import TargetError
from compiler.plugins import Registry
from compiler.trt_network.record import LayerRecord, NetworkRecord


class RankExchange(Protocol):
    """What collectives are called on; every rank calls them in the same order. Tensors are valid during a call only."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, of the same shape and type."""

    def all_max(self, tensor: Tensor) -> Tensor:
        """The largest over the ranks, of the same shape and type."""

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks in order, put together along dimension 0."""


@dataclass(slots=True)
class LayerCall:
    """One evaluation of one layer."""

    layer: LayerRecord
    inputs: Sequence[Tensor | None]
    record: NetworkRecord
    communicator: RankExchange | None = None

    def optional(self, index: int) -> Tensor | None:
        """The input at that position, or None if it is not set."""
        return self.inputs[index] if index < len(self.inputs) else None

    def tensor(self, index: int) -> Tensor:
        """The input at that position; TargetError if it is not set."""
        if (tensor := self.optional(index)) is None:
            raise self.error(f"needs its input {index}", hint="set it in the network")
        return tensor

    def tensors(self) -> list[Tensor]:
        """The inputs that are set."""
        return [tensor for tensor in self.inputs if tensor is not None]

    def param(self, name: str) -> Any:
        """A property of the layer, or None."""
        return self.layer.params.get(name)

    def dims(self, index: int, name: str) -> list[int] | None:
        """Dims from the input at that position if it is set, else from the property; None where neither is."""
        if (tensor := self.optional(index)) is not None:
            return [int(value) for value in tensor.flatten().tolist()]
        dims: list[int] | None = self.param(name)
        return dims

    def axes(self) -> list[int]:
        """The dimensions in the bit mask `axes`."""
        mask = int(self.param("axes"))
        return [axis for axis in range(mask.bit_length()) if mask >> axis & 1]

    @property
    def dtype(self) -> str:
        """TensorRT's name of the output's type."""
        return self.record.tensors[self.layer.outputs[0]].dtype

    def error(self, message: str, *, hint: str) -> TargetError:
        """An error that names the layer: `layer 'x' (KIND) <message>`."""
        return layer_error(self.layer, message, hint=hint)


def layer_error(layer: LayerRecord, message: str, *, hint: str) -> TargetError:
    """An error that names a layer and its kind."""
    return TargetError(f"layer {layer.name!r} ({layer.kind}) {message}", hint=hint)


Function = Callable[[LayerCall], Tensor | tuple[Tensor, ...]]
Check = Callable[[LayerRecord, NetworkRecord], str | None]

_SAID_BY_TENSORS = frozenset({"precision", "precision_is_set"})
"""Properties of every layer in some TensorRT packages; networks are strongly typed, so the tensors have the say."""


@dataclass(frozen=True)
class Emulation:
    """How a kind of layer is emulated. A layer with anything that is not listed here is refused.

    Attributes:
        function: evaluates it; its result is then rounded to the recorded type of the output.
        inputs: how many inputs it reads at most; None for any number.
        required: properties that it needs.
        optional: properties that may be missing, or that do not change what the layer makes.
        allowed: properties that may have these values only; None among them if the property may be missing.
        shape_inputs: positions of the inputs whose values decide the shape of the output.
        check: says what is wrong with a layer, if anything is.
    """

    function: Function
    inputs: int | None
    required: tuple[str, ...]
    optional: tuple[str, ...]
    allowed: Mapping[str, Collection[Any]]
    shape_inputs: tuple[int, ...]
    check: Check | None

    def verify(self, layer: LayerRecord, record: NetworkRecord) -> None:
        """TargetError if the layer is not one that can be emulated."""
        for name in self.required:
            if name not in layer.params:
                raise layer_error(layer, f"has no property {name!r} in the record", hint="compile the engine again")
        for name, allowed in self.allowed.items():
            if (value := layer.params.get(name)) not in tuple(allowed):
                choices = ", ".join(str(choice) for choice in allowed)
                raise layer_error(
                    layer, f"has {name} = {value}, which the emulator lacks", hint=f"it has {name}: {choices}"
                )
        reason = (self.check and self.check(layer, record)) or self._excess(layer) or _mistyped(layer, record)
        if reason:
            raise layer_error(layer, reason, hint="change what emits the layer, or extend compiler.trt_emulator")

    def _excess(self, layer: LayerRecord) -> str | None:
        """What the layer has that the emulation would ignore."""
        known = {*self.required, *self.optional, *self.allowed, *_SAID_BY_TENSORS, "to_type"}
        for name, value in layer.params.items():
            if name not in known and value is not None:
                return f"has {name} = {value}, a property that the emulator does not know"
        for index, tensor in enumerate(layer.inputs):
            if self.inputs is not None and index >= self.inputs and tensor is not None:
                return f"reads {tensor!r} as its input {index}, which the emulator lacks"
        return None


def _mistyped(layer: LayerRecord, record: NetworkRecord) -> str | None:
    wanted = layer.params.get("to_type")
    if wanted is None or not layer.outputs or record.tensors[layer.outputs[0]].dtype == wanted:
        return None
    return f"has to_type = {wanted} and makes {record.tensors[layer.outputs[0]].dtype}"


EMULATIONS = Registry[Emulation]("the layer {!r} has an emulation already", TargetError)
"""The emulations, by the kind of layer."""


def emulates(
    kind: str,
    *required: str,
    inputs: int | None,
    optional: tuple[str, ...] = (),
    shape_inputs: tuple[int, ...] = (),
    check: Check | None = None,
    **allowed: Collection[Any],
) -> Callable[[Function], Function]:
    """Enter a function in the table; see `Emulation` for the arguments. TargetError if the kind has one already."""

    def enter(function: Function) -> Function:
        emulation = Emulation(function, inputs, required, optional, allowed, shape_inputs, check)
        EMULATIONS.add(kind, emulation, function)
        return function

    return enter


def emulated_kinds() -> list[str]:
    """The kinds of layers in the table, but for CONSTANT, which is no computation."""
    return sorted(EMULATIONS)


def find_emulation(layer: LayerRecord) -> Emulation:
    """The emulation of a layer's kind; TargetError if there is none."""
    emulation = EMULATIONS.find(layer.kind)
    if emulation is None:
        raise layer_error(layer, "is of a kind that the emulator lacks", hint=f"it has {', '.join(emulated_kinds())}")
    return emulation
