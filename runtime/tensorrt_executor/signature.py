"""What a plan takes and gives, from its network record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch

from compiler.errors import EngineError
from compiler.trt.record import NetworkRecord, Weight
from runtime.tensorrt_executor.interface import Shape

STEP_INPUTS = ("past_len", "new_len", "logit_pos", "token_ids")
LOGITS = "logits"
AGAIN = "compile the engine again with this llmc"
_DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "FP8": torch.float8_e4m3fn,
}


@dataclass(frozen=True)
class Profile:
    """The least and the largest shape of every input that is no weight."""

    shapes: Mapping[str, tuple[Shape, Shape]]

    def takes(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether a run with inputs of these shapes fits."""
        return all(
            all(low <= size <= high for low, size, high in zip(least, shape, largest, strict=True))
            for name, shape in shapes.items()
            for least, largest in (self.shapes[name],)
        )

    @property
    def rows(self) -> tuple[int, int]:
        """The fewest and the most rows."""
        least, largest = self.shapes["token_ids"]
        return least[0], largest[0]

    @property
    def width(self) -> tuple[int, int]:
        """The fewest and the most tokens a row."""
        least, largest = self.shapes["token_ids"]
        return least[1], largest[1]

    @property
    def logits(self) -> tuple[int, int]:
        """The fewest and the most wanted positions a row; one, if the plan is not told which."""
        least, largest = self.shapes.get("logit_pos", ((1, 1), (1, 1)))
        return least[1], largest[1]


@dataclass(frozen=True)
class Cache:
    """A cache: a tensor `[B, heads, C, head_dim]` that a run updates in place.

    Attributes:
        name: the input's name.
        output: the name of the output that shares its memory, or holds what is new.
        row: the shape of one sequence's part, `[heads, C, head_dim]`.
        dtype: the element type.
        in_place: whether a run updates it; otherwise the output is `[B, heads, S, head_dim]` for the runtime to place.
    """

    name: str
    output: str
    row: Shape
    dtype: torch.dtype
    in_place: bool = True

    def shape(self, rows: int, capacity: int) -> Shape:
        """The shape of a cache like this one, for `rows` sequences of `capacity` tokens."""
        return (rows, self.row[0], capacity, *self.row[2:])


@dataclass(frozen=True)
class WeightInput:
    """An input that is a weight: its name, where its values are, and how many bytes they have."""

    name: str
    weight: Weight
    nbytes: int


@dataclass(frozen=True)
class Signature:
    """A plan's inputs and outputs.

    Attributes:
        step: those of `STEP_INPUTS` that the plan reads.
        caches: its caches.
        weights: its inputs that are weights.
        vocab: how many logits a position has.
        logits_dtype: their type.
        profiles: the profiles, in order; at least one.
    """

    step: tuple[str, ...]
    caches: tuple[Cache, ...]
    weights: tuple[WeightInput, ...]
    vocab: int
    logits_dtype: torch.dtype
    profiles: tuple[Profile, ...]

    @property
    def capacity(self) -> int:
        """The tokens that a row of the caches holds."""
        return self.caches[0].row[1]

    def input_shapes(self, rows: int, width: int, logits: int) -> dict[str, Shape]:
        """The shape of every input but weights in a run of `width` tokens and `logits` wanted positions a row."""
        step = {"token_ids": (rows, width), "past_len": (rows,), "new_len": (rows,), "logit_pos": (rows, logits)}
        return {name: step[name] for name in self.step} | {c.name: (rows, *c.row) for c in self.caches}


def read_signature(record: NetworkRecord, file: str) -> Signature:
    """What the plan of `record`, from `file`, takes and gives.

    Raises:
        EngineError: naming the file and tensor, if it is no plan that llmc built.
    """
    sources = {source: output for output, source in record.caches.items()}
    step = tuple(name for name in STEP_INPUTS if name in record.inputs)
    for name in record.inputs:
        if name not in (*step, *sources, *record.weights):
            raise EngineError(
                f"{file} has an input {name!r} that is no weight, no cache, and not known to llmc", hint=AGAIN
            )
    for name in ("token_ids", LOGITS):
        if name not in (*record.inputs, *record.outputs):
            raise EngineError(f"{file} has no {name!r}: it is no engine that llmc built", hint=AGAIN)
    for name in step:
        if _dtype(record, name, file) != torch.int32:
            raise EngineError(f"{file}: the input {name!r} is not of type INT32", hint=AGAIN)
    return Signature(
        step,
        _caches(record, sources, file),
        tuple(_weight(record, name, file) for name in record.inputs if name in record.weights),
        record.tensors[LOGITS].shape[-1],
        _dtype(record, LOGITS, file),
        _profiles(record, (*step, *sources)),
    )


def _caches(record: NetworkRecord, sources: Mapping[str, str], file: str) -> tuple[Cache, ...]:
    caches = tuple(
        Cache(name, output, record.tensors[name].shape[1:], _dtype(record, name, file), output not in record.updates)
        for name, output in sources.items()
    )
    if not caches:
        raise EngineError(f"{file} has no caches: none of its outputs shares an input's memory", hint=AGAIN)
    for cache in caches:
        if -1 in cache.row or cache.row[1] != caches[0].row[1]:
            raise EngineError(f"{file}: the cache {cache.name!r} has rows of the shape {list(cache.row)}", hint=AGAIN)
    return caches


def _weight(record: NetworkRecord, name: str, file: str) -> WeightInput:
    nbytes = prod(record.tensors[name].shape) * _dtype(record, name, file).itemsize
    return WeightInput(name, record.weights[name], nbytes)


def _profiles(record: NetworkRecord, names: tuple[str, ...]) -> tuple[Profile, ...]:
    """The recorded profiles; without any, the one that all networks of static shapes have."""
    static = {name: (record.tensors[name].shape,) * 2 for name in names}
    recorded = [
        {name: (shapes[0], shapes[2]) for name, shapes in p.shapes.items() if name in static} for p in record.profiles
    ]
    return tuple(Profile({**static, **shapes}) for shapes in recorded or [{}])


def _dtype(record: NetworkRecord, name: str, file: str) -> torch.dtype:
    dtype = record.tensors[name].dtype
    if dtype not in _DTYPES:
        raise EngineError(f"{file}: the tensor {name!r} has the type {dtype}, which llmc does not use", hint=AGAIN)
    return _DTYPES[dtype]
