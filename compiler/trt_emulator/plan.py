"""The order of evaluation: what runs after what, what can be dropped when, and which shapes come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from compiler.plugins import blamed
from compiler.trt_emulator.checks import BUG, check_order, check_shape_inputs, check_tensors
from compiler.trt_emulator.layers import Emulation, LayerCall, RankExchange, find_emulation
from compiler.trt_emulator.memory import TORCH_TYPES, convert
from compiler.trt_network.record import LayerRecord, NetworkRecord, TensorRecord

Observer = Callable[[LayerRecord, list[Tensor]], None]

_MOST_DIMS = 1024
_INTEGERS = ("INT32", "INT64")


@dataclass(frozen=True)
class LayerStep:
    """A layer, how it is emulated, what it makes, and the tensors that nothing reads after it."""

    layer: LayerRecord
    emulation: Emulation
    outputs: tuple[TensorRecord, ...]
    release: tuple[str, ...]


@dataclass(frozen=True)
class EmulationPlan:
    """The steps of a network.

    Attributes:
        record: the network.
        steps: its layers in order, but for the constants.
        known: tensors whose values follow from constants and shapes, so that shapes can follow from them.
    """

    record: NetworkRecord
    steps: tuple[LayerStep, ...]
    known: frozenset[str]


def make_plan(record: NetworkRecord) -> EmulationPlan:
    """The steps of a network.

    Raises:
        TargetError: if the emulator lacks an element type, a kind of layer or one of its modes.
    """
    check_tensors(record)
    layers = [layer for layer in record.layers if layer.kind != "CONSTANT"]
    emulations = [find_emulation(layer) for layer in layers]
    for layer, emulation in zip(layers, emulations, strict=True):
        emulation.verify(layer, record)
    check_order(record)
    known = _known(record)
    for layer, emulation in zip(layers, emulations, strict=True):
        check_shape_inputs(layer, emulation, known)
    releases = _releases(record, layers)
    made = [tuple(record.tensors[name] for name in layer.outputs) for layer in layers]
    steps = tuple(LayerStep(*step) for step in zip(layers, emulations, made, releases, strict=True))
    return EmulationPlan(record, steps, known)


def _known(record: NetworkRecord) -> frozenset[str]:
    known: set[str] = set()
    for layer in record.layers:
        output = record.tensors[layer.outputs[0]]
        if layer.kind == "CONSTANT":
            is_known = output.dtype in _INTEGERS and prod(output.shape) <= _MOST_DIMS
        else:
            is_known = layer.kind == "SHAPE" or all(name in known for name in layer.inputs if name is not None)
        if is_known:
            known.update(layer.outputs)
    return frozenset(known)


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
    plan: EmulationPlan, values: dict[str, Tensor], communicator: RankExchange | None, observe: Observer | None
) -> None:
    """Run every step; `values` holds the inputs and constants at first, and the outputs as well at the end.

    Raises:
        TargetError: if a layer is given what it cannot work on.
    """
    for step in plan.steps:
        layer = step.layer
        inputs = [None if name is None else values[name] for name in layer.inputs]
        results = _run(step, LayerCall(layer, inputs, plan.record, communicator))
        values.update(zip(layer.outputs, results, strict=True))
        if observe is not None:
            observe(layer, results)
        for name in step.release:
            del values[name]


def _run(step: LayerStep, call: LayerCall) -> list[Tensor]:
    function = step.emulation.function
    try:
        with blamed(function, f"the emulation of the layer {step.layer.name!r}"):
            made = function(call)
            given = made if isinstance(made, tuple) else (made,)
            results = [convert(tensor, output.dtype) for tensor, output in zip(given, step.outputs, strict=True)]
    except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError) as error:
        text = ", ".join("none" if x is None else f"{x.dtype}{list(x.shape)}" for x in call.inputs)
        raise call.error(f"cannot be evaluated on {text}: {error}", hint=BUG) from error
    for result, output in zip(results, step.outputs, strict=True):
        if result.shape != output.shape and not _fits(result.shape, output.shape):
            raise call.error(f"made dims {list(result.shape)} where the record says {list(output.shape)}", hint=BUG)
    return results


def _fits(shape: Sequence[int], recorded: Sequence[int]) -> bool:
    return len(shape) == len(recorded) and all(r in (-1, s) for r, s in zip(recorded, shape, strict=True))


def infer_shapes(
    plan: EmulationPlan,
    constants: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    communicator: RankExchange | None,
) -> dict[str, tuple[int, ...]]:
    """The shapes of the outputs for those of the inputs; only the known tensors are computed.

    Raises:
        TargetError: if the shapes do not fit a layer.
    """
    values = {name: tensor if name in plan.known else tensor.to("meta") for name, tensor in constants.items()}
    for name, shape in shapes.items():
        values[name] = torch.empty(shape, dtype=TORCH_TYPES[plan.record.tensors[name].dtype], device="meta")
    for step in plan.steps:
        layer = step.layer
        inputs = [None if name is None else values[name] for name in layer.inputs]
        if layer.outputs[0] not in plan.known:
            values_needed = step.emulation.shape_inputs
            inputs = [x if x is None or i in values_needed else x.to("meta") for i, x in enumerate(inputs)]
        results = _run(step, LayerCall(layer, inputs, plan.record, communicator))
        values.update(zip(layer.outputs, results, strict=True))
    return {name: tuple(values[name].shape) for name in plan.record.outputs}
