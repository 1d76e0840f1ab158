"""A TensorRT engine in a few lines, over raw addresses: its caches hold the tokens themselves, and the next token
follows from all of a row's tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from types import SimpleNamespace

import torch
from torch import Tensor

from runtime.tensorrt_executor import TensorRTExecutor
from tests.runtime.fakes import VOCAB, next_token

BATCH, INPUT, CAPACITY = 3, 8, 16
HEADS, WIDTH = 3, 1  # a row of the cache is 192 bytes: no multiple of what TensorRT wants addresses to be
CACHE, NEXT_CACHE = "cache.0.k", "cache.0.k.next"
SHAPES = {
    "token_ids": ((1, 1), (BATCH, INPUT)),
    "past_len": ((1,), (BATCH,)),
    "new_len": ((1,), (BATCH,)),
    "logit_pos": ((1, 1), (BATCH, INPUT)),
    CACHE: ((1, HEADS, CAPACITY, WIDTH), (BATCH, HEADS, CAPACITY, WIDTH)),
}
DECODE = {**SHAPES, "token_ids": ((1, 1), (BATCH, 1)), "logit_pos": ((1, 1), (BATCH, 1))}


class FakeEngine:
    """`ICudaEngine`. Give it other profiles, types or aliases to make it another engine."""

    def __init__(
        self,
        profiles: Sequence[Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]] = (DECODE, SHAPES),
        dtypes: Mapping[str, str] = {},
        aliases: Mapping[str, str] = {NEXT_CACHE: CACHE},
    ) -> None:
        self.profiles, self.dtypes, self.aliases = profiles, dtypes, aliases
        self.inputs = list(profiles[0])
        self.names = [*self.inputs, "logits", NEXT_CACHE]
        self.num_io_tensors, self.num_optimization_profiles = len(self.names), len(profiles)
        self.runs: list[tuple[int, tuple[int, ...]]] = []  # the profile and the shape of the tokens of each run

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return SimpleNamespace(name="INPUT" if name in self.inputs else "OUTPUT")

    def get_tensor_dtype(self, name):
        default = "FLOAT" if "cache" in name or name == "logits" else "INT32"
        return SimpleNamespace(name=self.dtypes.get(name, default))

    def get_tensor_shape(self, name):
        shapes = {CACHE: (-1, HEADS, CAPACITY, WIDTH), "logits": (-1, -1, VOCAB)}
        return shapes.get(self.aliases.get(name, name), (-1, -1))

    def get_tensor_profile_shape(self, name, profile_index):
        least, largest = self.profiles[profile_index][name]
        return [list(least), list(largest), list(largest)]

    def get_aliased_input_tensor(self, name):
        return self.aliases.get(name)


class FakeContext:
    """`IExecutionContext`, as strict as TensorRT."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.profile = engine, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self.profile, self.shapes = profile_index, {}
        return True

    def set_input_shape(self, name, shape):
        least, largest = self.engine.profiles[self.profile][name]
        self.shapes[name] = shape
        return all(low <= size <= high for low, size, high in zip(least, shape, largest, strict=True))

    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return name in self.engine.names

    def get_tensor_shape(self, name):
        return (*self.shapes["logit_pos"], VOCAB)

    def infer_shapes(self):
        return [name for name in self.engine.inputs if name not in self.shapes]

    def execute_async_v3(self, stream_handle):
        assert self.addresses[CACHE] == self.addresses[NEXT_CACHE]
        self.engine.runs.append((self.profile, self.shapes["token_ids"]))
        compute(self.shapes, self.addresses)
        return True


def compute(shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
    """A step: every token of the width goes into the cache, padding too, as TensorRT has it."""
    ids, past, positions = (tensor(addresses[n], shapes[n]) for n in ("token_ids", "past_len", "logit_pos"))
    cache = tensor(addresses[CACHE], shapes[CACHE], ctypes.c_float, torch.float32)
    logits = tensor(addresses["logits"], (*shapes["logit_pos"], VOCAB), ctypes.c_float, torch.float32)
    width = ids.shape[1]
    for row, start in enumerate(past.tolist()):
        assert start + width <= CAPACITY
        cache[row, :, start : start + width] = ids[row].float()[:, None]
        for r, position in enumerate(positions[row].tolist()):
            assert 0 <= position < width
            logits[row, r] = 0
            logits[row, r, next_token(cache[row, 0, : start + position + 1, 0].int().tolist())] = 1


def tensor(address, shape, ctype=ctypes.c_int32, dtype=torch.int32) -> Tensor:
    return torch.frombuffer((ctype * prod(shape)).from_address(address), dtype=dtype).view(shape)


class FakeStream:
    """A stream that records: what is run again is what the context was told when it was recorded."""

    device, handle = torch.device("cpu"), 0

    def __init__(self, records: bool) -> None:
        self.records, self.captured, self.replayed = records, 0, 0
        self.recording: FakeContext | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        yield

    def capture(self, launch: Callable[[], None]) -> Callable[[], None] | None:
        if not self.records:
            return None
        self.captured += 1
        context = launch.__self__._context  # type: ignore[attr-defined]
        shapes, addresses = dict(context.shapes), dict(context.addresses)

        def replay() -> None:
            self.replayed += 1
            compute(shapes, addresses)

        return replay


class FakeBackend:
    """A backend over a `FakeEngine`."""

    def __init__(self, engine: FakeEngine | None = None, *, records: bool = False) -> None:
        self.engine = engine or FakeEngine()
        self.stream = FakeStream(records)
        self.contexts: list[tuple[int, bool]] = []
        self.room: list[int] = []

    def new_context(self, profile: int, *, one_width: bool) -> FakeContext:
        self.contexts.append((profile, one_width))
        return FakeContext(self.engine)

    def check_room(self, cache_bytes: int) -> None:
        self.room.append(cache_bytes)

    def take_messages(self) -> str:
        return "Error Code 3: out of luck"


def fake_executor(backend: FakeBackend, **options) -> TensorRTExecutor:
    return TensorRTExecutor(backend, name="fake", file="rank0.engine", **options)
