"""Whether a loaded engine is the one of its network record."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.errors import EngineError
from compiler.trt_network.record import NetworkRecord
from runtime.executors.tensorrt.interface import TensorEngine


def check_engine(engine: TensorEngine, record: NetworkRecord, file: str) -> None:
    """Compare what `engine`, from `file`, takes and gives with its record, from which all else was learnt.

    Raises:
        EngineError: naming the file and what differs first.
    """
    for what, found, recorded in _facts(engine, record):
        if found != recorded:
            raise EngineError(
                f"{file} is not the engine of its network record: {what} is {found}, the record says {recorded}",
                hint="copy the engine again from where it came, or compile it again",
            )


def _facts(engine: TensorEngine, record: NetworkRecord) -> Iterator[tuple[str, object, object]]:
    """What must be equal: in words, of the engine, and of the record."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    modes = {name: engine.get_tensor_mode(name).name for name in names}
    yield "the list of its inputs", sorted(name for name in names if modes[name] == "INPUT"), sorted(record.inputs)
    yield "the list of its outputs", sorted(name for name in names if modes[name] == "OUTPUT"), sorted(record.outputs)
    for name in names:
        tensor = record.tensors[name]
        yield f"the type of {name!r}", engine.get_tensor_dtype(name).name, tensor.dtype
        yield f"the shape of {name!r}", list(engine.get_tensor_shape(name)), list(tensor.shape)
    written_by_plugins = {
        layer.outputs[number] for layer in record.layers if "::" in layer.kind for number, _ in layer.in_place
    }
    for name in record.outputs:
        alias = engine.get_aliased_input_tensor(name) or None
        if alias is not None or name not in written_by_plugins:  # TensorRT does not say what plug-ins write to
            yield f"the input whose memory {name!r} shares", alias, record.aliases.get(name)
    yield "the number of its profiles", engine.num_optimization_profiles, max(len(record.profiles), 1)
    for index, profile in enumerate(record.profiles):
        for name, shapes in profile.shapes.items():
            if -1 in record.tensors[name].shape:
                found = [list(shape) for shape in engine.get_tensor_profile_shape(name, index)]
                yield f"the range of {name!r} in profile {index}", found, [list(shape) for shape in shapes]
