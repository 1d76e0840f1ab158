"""What an engine takes and gives, asked from the engine itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch

from compiler.errors import EngineError, RequestError
from runtime.tensorrt_executor.interface import Shape, TensorEngine

STEP_INPUTS = ("past_len", "new_len", "logit_pos", "token_ids")
LOGITS = "logits"
_DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
}
_AGAIN = "compile the engine again with this llmc"


@dataclass(frozen=True)
class Profile:
    """The least and the largest shape of every input."""

    shapes: Mapping[str, tuple[Shape, Shape]]

    def takes(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether a run with inputs of these shapes fits."""
        return all(
            all(low <= size <= high for low, size, high in zip(*self._range(name, shape), strict=True))
            for name, shape in shapes.items()
        )

    @property
    def one_width(self) -> bool:
        """Whether all of its steps are equally wide, as decoding is."""
        least, largest = self.shapes["token_ids"]
        return least[1] == largest[1]

    def _range(self, name: str, shape: Shape) -> tuple[Shape, Shape, Shape]:
        least, largest = self.shapes[name]
        return least, shape, largest


@dataclass(frozen=True)
class Cache:
    """A cache: a tensor `[B, heads, C, head_dim]` that a run updates in place.

    Attributes:
        name: the input's name.
        output: the name of the output that shares its memory.
        row: the shape of one sequence's part, `[heads, C, head_dim]`.
        dtype: the element type.
    """

    name: str
    output: str
    row: Shape
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """The bytes of one sequence's part."""
        return prod(self.row) * self.dtype.itemsize


@dataclass(frozen=True)
class Signature:
    """An engine's inputs and outputs.

    Attributes:
        step: those of `STEP_INPUTS` that the engine reads.
        caches: its caches.
        vocab: how many logits a position has.
        logits_dtype: their type.
        profiles: the profiles, in order.
    """

    step: tuple[str, ...]
    caches: tuple[Cache, ...]
    vocab: int
    logits_dtype: torch.dtype
    profiles: tuple[Profile, ...]

    @property
    def capacity(self) -> int:
        """The tokens that a row of the caches holds."""
        return min(cache.row[1] for cache in self.caches)

    @property
    def max_batch(self) -> int:
        """The most sequences that a profile takes."""
        return max(profile.shapes["token_ids"][1][0] for profile in self.profiles)

    def input_shapes(self, batch: int, width: int, logits: int) -> dict[str, Shape]:
        """The shape of every input in a step of `width` tokens and `logits` wanted positions a row."""
        step = {"token_ids": (batch, width), "past_len": (batch,), "new_len": (batch,), "logit_pos": (batch, logits)}
        return {name: step[name] for name in self.step} | {c.name: (batch, *c.row) for c in self.caches}

    def choose(self, shapes: Mapping[str, Shape]) -> int:
        """The first profile that takes inputs of these shapes; RequestError if there is none."""
        for index, profile in enumerate(self.profiles):
            if profile.takes(shapes):
                return index
        wanted = ", ".join(f"{name} {list(shapes[name])}" for name in self.step)
        limits = "; ".join(self._limits(profile) for profile in self.profiles)
        raise RequestError(
            f"the engine was built for no step of this size: {wanted}; its profiles go up to: {limits}",
            hint="ask for less at a time, or compile with larger --max-batch and --max-input",
        )

    def _limits(self, profile: Profile) -> str:
        return ", ".join(f"{name} {list(profile.shapes[name][1])}" for name in self.step)


def read_signature(engine: TensorEngine, file: str) -> Signature:
    """What `engine`, from `file`, takes and gives.

    Raises:
        EngineError: naming the file and tensor, if it is no engine that llmc built.
    """
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
    outputs = [name for name in names if name not in inputs]
    aliases = {source: name for name in outputs if (source := engine.get_aliased_input_tensor(name)) is not None}
    step = tuple(name for name in STEP_INPUTS if name in inputs)
    for name in inputs:
        if name not in step and name not in aliases:
            raise EngineError(f"{file} has an input {name!r} that is no cache and that llmc does not know", hint=_AGAIN)
    for name in ("token_ids", LOGITS):
        if name not in names:
            raise EngineError(f"{file} has no {name!r}: it is no engine that llmc built", hint=_AGAIN)
    for name in step:
        if _dtype(engine, name, file) != torch.int32:
            raise EngineError(f"{file}: the input {name!r} is not of type INT32", hint=_AGAIN)
    if not aliases:
        raise EngineError(f"{file} has no caches: none of its outputs shares an input's memory", hint=_AGAIN)
    caches = tuple(
        Cache(name, output, tuple(engine.get_tensor_shape(name))[1:], _dtype(engine, name, file))
        for name, output in aliases.items()
    )
    profiles = tuple(_profile(engine, inputs, index) for index in range(engine.num_optimization_profiles))
    return Signature(step, caches, engine.get_tensor_shape(LOGITS)[-1], _dtype(engine, LOGITS, file), profiles)


def _profile(engine: TensorEngine, inputs: list[str], index: int) -> Profile:
    shapes = {}
    for name in inputs:
        least, _, largest = engine.get_tensor_profile_shape(name, index)
        shapes[name] = (tuple(least), tuple(largest))
    return Profile(shapes)


def _dtype(engine: TensorEngine, name: str, file: str) -> torch.dtype:
    dtype = engine.get_tensor_dtype(name).name
    if dtype not in _DTYPES:
        raise EngineError(f"{file}: the tensor {name!r} has the type {dtype}, which llmc does not use", hint=_AGAIN)
    return _DTYPES[dtype]
