"""What a plan takes and gives, from its network record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from compiler.errors import EngineError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.mesh_stages import RECEIVE, SEND
from compiler.ir.step import LOGIT_POS, LOGITS, STEP_INPUTS, TOKEN_IDS
from compiler.trt_network.dtypes import DataType
from compiler.trt_network.record import NetworkRecord
from runtime.executors.tensorrt.interface import Shape
from runtime.executors.tensorrt.signature import (
    AGAIN,
    Activation,
    Cache,
    Profile,
    Signature,
)

# The element types of what llmc's plans take and give.
_USED = (DataType.FLOAT, DataType.HALF, DataType.BF16, DataType.INT32, DataType.INT8, DataType.FP8)


def read_signature(record: NetworkRecord, file: str) -> Signature:
    """What the plan of `record`, from `file`, takes and gives.

    Raises:
        EngineError: naming the file and tensor, if it is no plan that llmc built.
    """
    sources = {source: output for output, source in record.caches.items()}
    step = tuple(name for name in STEP_INPUTS if name in record.inputs)
    received = tuple(name for name in record.inputs if name.startswith(RECEIVE))
    for name in record.inputs:
        if name not in (*step, *received, *sources, *record.weights):
            raise EngineError(
                f"{file} has an input {name!r} that is no weight, no cache, and not known to llmc", hint=AGAIN
            )
    for name in step:
        if _dtype(record, name, file) != torch.int32:
            raise EngineError(f"{file}: the input {name!r} is not of type INT32", hint=AGAIN)
    sent = tuple(name for name in record.outputs if name.startswith(SEND))
    logits = _activation(record, LOGITS, file) if LOGITS in record.outputs else None
    by_token = _first(TOKEN_IDS, *(name for name in received if name not in record.positions), among=record.inputs)
    by_position = _first(LOGIT_POS, *(name for name in received if name in record.positions), among=record.inputs)
    for found, whole, stage in ((by_token or received, TOKEN_IDS, RECEIVE), (sent or logits, LOGITS, SEND)):
        if not found:
            raise EngineError(f"{file} has no {whole!r} and no '{stage}...': no engine that llmc built", hint=AGAIN)
    return Signature(
        step,
        _caches(record, sources, file),
        tuple((record.tensors[name], record.weights[name]) for name in record.inputs if name in record.weights),
        tuple(_activation(record, name, file) for name in received),
        tuple(_activation(record, name, file) for name in sent),
        logits,
        tuple(Profile(shapes, by_token, by_position) for shapes in _shapes(record, (*step, *received, *sources))),
    )


def _first(*names: str, among: Sequence[str]) -> str | None:
    return next((name for name in names if name in among), None)


def _caches(record: NetworkRecord, sources: Mapping[str, str], file: str) -> tuple[Cache, ...]:
    caches: list[Cache] = []
    for name, output in sources.items():
        shape = record.tensors[name].shape
        row = LINEAR.resized(shape, 1, shape[LINEAR.POSITION]) if len(shape) == LINEAR.RANK else ()
        cache = Cache(name, output, row, _dtype(record, name, file), output not in record.updates)
        if not row or -1 in row or (caches and cache.capacity != caches[0].capacity):
            raise EngineError(f"{file}: the cache {name!r} has the shape {list(shape)}", hint=AGAIN)
        caches.append(cache)
    return tuple(caches)


def _activation(record: NetworkRecord, name: str, file: str) -> Activation:
    shape = record.tensors[name].shape
    if len(shape) < 2 or -1 in shape[2:]:
        raise EngineError(f"{file}: {name!r} has the shape {list(shape)}, not one for each token", hint=AGAIN)
    return Activation(name, shape[2:], _dtype(record, name, file), name in (LOGITS, *record.positions))


def _shapes(record: NetworkRecord, names: tuple[str, ...]) -> Iterator[dict[str, tuple[Shape, Shape]]]:
    """The shapes of the recorded profiles; without any, of the one that all networks of static shapes have."""
    static = {name: (record.tensors[name].shape,) * 2 for name in names}
    for profile in [profile.shapes for profile in record.profiles] or [{}]:
        yield {**static, **{name: (shapes[0], shapes[2]) for name, shapes in profile.items() if name in static}}


def _dtype(record: NetworkRecord, name: str, file: str) -> torch.dtype:
    tensor = record.tensors[name]
    if tensor.data_type not in _USED:
        raise EngineError(
            f"{file}: the tensor {name!r} has the type {tensor.dtype}, which llmc does not use", hint=AGAIN
        )
    return tensor.data_type.torch_dtype
