"""The order of evaluation: what runs after what, what can be dropped when, and which shapes come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from compiler.errors import TargetError
from compiler.trt.emulator.layers import Call, Communicator, Emulation, find_emulation
from compiler.trt.emulator.memory import TORCH_TYPES, convert
from compiler.trt.record import LayerRecord, NetworkRecord

Observer = Callable[[LayerRecord, list[Tensor]], None]

_MOST_DIMS = 1024
_INTEGERS = ("INT32", "INT64")
_BUG = "compile the engine again; if that does not help, extend compiler.trt.emulator"


@dataclass(frozen=True)
class Step:
    """A layer, how it is emulated, and the tensors that nothing reads after it."""

    layer: LayerRecord
    emulation: Emulation
    release: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The steps of a network.

    Attributes:
        record: the network.
        steps: its layers in order, but for the constants.
        known: tensors whose values follow from constants and shapes, so that shapes can follow from them.
    """

    record: NetworkRecord
    steps: tuple[Step, ...]
    known: frozenset[str]


def make_plan(record: NetworkRecord) -> Plan:
    """The steps of a network.

    Raises:
        TargetError: if the emulator lacks an element type, a kind of layer or one of its modes.
    """
    _check_types(record)
    layers = [layer for layer in record.layers if layer.kind != "CONSTANT"]
    emulations = [find_emulation(layer) for layer in layers]
    for layer, emulation in zip(layers, emulations, strict=True):
        emulation.verify(layer, record)
    _check_order(record)
    known = _known(record)
    for layer, emulation in zip(layers, emulations, strict=True):
        _check_shape_inputs(layer, emulation, known)
    releases = _releases(record, layers)
    steps = tuple(Step(*step) for step in zip(layers, emulations, releases, strict=True))
    return Plan(record, steps, known)


def _check_types(record: NetworkRecord) -> None:
    for tensor in record.tensors.values():
        if tensor.dtype not in TORCH_TYPES:
            raise TargetError(
                f"tensor {tensor.name!r} is of type {tensor.dtype}, which the emulator lacks",
                hint=f"it has {', '.join(TORCH_TYPES)}",
            )
    for name in (*record.inputs, *record.outputs):
        if record.tensors[name].dtype == "INT4":
            raise TargetError(
                f"tensor {name!r} is an input or output of type INT4, which the emulator has inside networks only",
                hint="quantize or dequantize inside the network",
            )


def _check_order(record: NetworkRecord) -> None:
    made = set(record.inputs)
    for layer in record.layers:
        if len(layer.outputs) != 1:
            raise TargetError(
                f"layer {layer.name!r} ({layer.kind}) makes {len(layer.outputs)} tensors; the emulator has layers of 1",
                hint=_BUG,
            )
        for name in (*layer.inputs, *layer.outputs):
            if name is not None and name not in record.tensors:
                raise TargetError(f"layer {layer.name!r} ({layer.kind}) has an unknown tensor {name!r}", hint=_BUG)
        for name in layer.inputs:
            if name is not None and name not in made:
                raise TargetError(f"layer {layer.name!r} ({layer.kind}) reads {name!r} before it is made", hint=_BUG)
        made.update(layer.outputs)
    if missing := [name for name in record.outputs if name not in made]:
        raise TargetError(f"no layer makes the output {missing[0]!r}", hint=_BUG)


def _known(record: NetworkRecord) -> frozenset[str]:
    known: set[str] = set()
    for layer in record.layers:
        output = record.tensors[layer.outputs[0]]
        if layer.kind == "CONSTANT":
            is_known = output.dtype in _INTEGERS and prod(output.shape) <= _MOST_DIMS
        else:
            is_known = layer.kind == "SHAPE" or all(name in known for name in layer.inputs if name is not None)
        if is_known:
            known.add(output.name)
    return frozenset(known)


def _check_shape_inputs(layer: LayerRecord, emulation: Emulation, known: frozenset[str]) -> None:
    for index in emulation.shape_inputs:
        name = layer.inputs[index] if index < len(layer.inputs) else None
        if name is not None and name not in known:
            raise TargetError(
                f"layer {layer.name!r} ({layer.kind}) takes its shape from the values of {name!r}, which do not follow "
                "from constants and shapes",
                hint="compute it from SHAPE layers and integer constants",
            )


def _releases(record: NetworkRecord, layers: list[LayerRecord]) -> list[tuple[str, ...]]:
    kept = {name for layer in record.layers if layer.kind == "CONSTANT" for name in layer.outputs}
    kept.update(record.inputs, record.outputs)
    last = {name: i for i, layer in enumerate(layers) for name in (*layer.inputs, *layer.outputs) if name is not None}
    releases: list[list[str]] = [[] for _ in layers]
    for name, index in last.items():
        if name not in kept:
            releases[index].append(name)
    return [tuple(names) for names in releases]


def evaluate(
    plan: Plan, values: dict[str, Tensor], communicator: Communicator | None, observe: Observer | None
) -> None:
    """Run every step; `values` holds the inputs and constants at first, and the outputs as well at the end.

    Raises:
        TargetError: if a layer is given what it cannot work on.
    """
    for step in plan.steps:
        layer = step.layer
        inputs = [None if name is None else values[name] for name in layer.inputs]
        values[layer.outputs[0]] = result = _run(step, Call(layer, inputs, plan.record, communicator))
        if observe is not None:
            observe(layer, [result])
        for name in step.release:
            del values[name]


def _run(step: Step, call: Call) -> Tensor:
    try:
        result = convert(step.emulation.function(call), call.dtype)
    except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError) as error:
        given = ", ".join("none" if x is None else f"{x.dtype}{list(x.shape)}" for x in call.inputs)
        raise call.error(f"cannot be evaluated on {given}: {error}", hint=_BUG) from error
    recorded = call.record.tensors[call.layer.outputs[0]].shape
    if len(result.shape) != len(recorded) or any(r not in (-1, s) for r, s in zip(recorded, result.shape, strict=True)):
        raise call.error(f"made dims {list(result.shape)} where the record says {list(recorded)}", hint=_BUG)
    return result


def infer_shapes(
    plan: Plan,
    constants: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    communicator: Communicator | None,
) -> dict[str, tuple[int, ...]]:
    """The shapes of the outputs for those of the inputs; only the known tensors are computed.

    Raises:
        TargetError: if the shapes do not fit a layer.
    """
    values = {name: tensor if name in plan.known else tensor.to("meta") for name, tensor in constants.items()}
    for name, shape in shapes.items():
        values[name] = torch.empty(shape, dtype=TORCH_TYPES[plan.record.tensors[name].dtype], device="meta")
    for step in plan.steps:
        layer, output = step.layer, step.layer.outputs[0]
        inputs = [None if name is None else values[name] for name in layer.inputs]
        if output not in plan.known:
            values_needed = step.emulation.shape_inputs
            inputs = [x if x is None or i in values_needed else x.to("meta") for i, x in enumerate(inputs)]
        values[output] = _run(step, Call(layer, inputs, plan.record, communicator))
    return {name: tuple(values[name].shape) for name in plan.record.outputs}
