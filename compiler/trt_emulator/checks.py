"""What must hold of a record before a plan is made of it."""

from __future__ import annotations

from compiler.errors import TargetError
from compiler.trt_emulator.memory import TORCH_TYPES
from compiler.trt_emulator.table import Emulation, layer_error
from compiler.trt_network.record import LayerRecord, NetworkRecord

BUG = "compile the engine again; if that does not help, extend compiler.trt_emulator"


def check_tensors(record: NetworkRecord) -> None:
    """TargetError for an element type that the emulator lacks, and for a weight that is no input of fixed shape."""
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
    for name in record.weights:
        if name not in record.inputs or -1 in record.tensors[name].shape:
            raise TargetError(f"weight {name!r} is no input of fixed shape", hint=BUG)


def check_order(record: NetworkRecord) -> None:
    """TargetError for several outputs of a layer but a plug-in's, an unknown tensor, or one read before it is made."""
    made = set(record.inputs)
    for layer in record.layers:
        if not layer.outputs or (len(layer.outputs) > 1 and "::" not in layer.kind):
            raise layer_error(layer, f"makes {len(layer.outputs)} tensors; the emulator has layers of 1", hint=BUG)
        for name in (*layer.inputs, *layer.outputs):
            if name is not None and name not in record.tensors:
                raise layer_error(layer, f"has an unknown tensor {name!r}", hint=BUG)
        for name in layer.inputs:
            if name is not None and name not in made:
                raise layer_error(layer, f"reads {name!r} before it is made", hint=BUG)
        made.update(layer.outputs)
    if missing := [name for name in record.outputs if name not in made]:
        raise TargetError(f"no layer makes the output {missing[0]!r}", hint=BUG)


def check_shape_inputs(layer: LayerRecord, emulation: Emulation, known: frozenset[str]) -> None:
    """TargetError if the shape of what a layer makes depends on values that only a run gives."""
    for index in emulation.shape_inputs:
        name = layer.inputs[index] if index < len(layer.inputs) else None
        if name is not None and name not in known:
            raise layer_error(
                layer,
                f"takes its shape from the values of {name!r}, which do not follow from constants and shapes",
                hint="compute it from SHAPE layers and integer constants",
            )
