"""TensorRT plans in a few lines, over raw addresses: their caches hold the tokens themselves, and the next token
follows from all of a row's tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from compiler.store.weight_bytes import WeightBytes
from compiler.trt_network.plans import PlanFiles
from compiler.trt_network.record import LayerRecord, NetworkRecord, ProfileRecord, TensorRecord, Weight
from runtime.executors.tensorrt.executor import TensorRTExecutor
from runtime.executors.tensorrt.plan import Plan
from tests.runtime.fakes import VOCAB, next_token

HEADS, WIDTH = 3, 1
CACHE, NEXT_CACHE = "cache.0.k", "cache.0.k.next"
BATCH, INPUT, SCORED, CAPACITY = 4, 6, 3, 16  # up to SCORED tokens, plans give the logits of all
UNIT = 42.0  # what a run gives the chosen token: the network's only weight, at byte 4 of the tensor `unit`
WEIGHTS = WeightBytes(Path("rank0.safetensors"), {"unit": torch.tensor([0, UNIT]).view(torch.uint8)})
Range = tuple[int, int]


def fake_record(
    capacity: int, *profiles: tuple[Range, Range, Range], drop: Sequence[str] = (), dtypes: Mapping[str, str] = {}
) -> NetworkRecord:
    """A network for certain ranges of rows, tokens per row and logits per row.

    `drop` leaves out tensors, `dtypes` gives others types. Without dynamic shapes there is no profile, as in builds.
    """

    def shape(name: str, rows: int, width: int, logits: int) -> tuple[int, ...]:
        shapes = {"token_ids": (rows, width), "past_len": (rows,), "new_len": (rows,), "logit_pos": (rows, logits)}
        shapes |= {"logits": (rows, logits, VOCAB), "unit": (1,)}
        return shapes.get(name, (rows, HEADS, capacity, WIDTH))

    def declared(name: str) -> tuple[int, ...]:
        corners = [shape(name, *end) for ranges in profiles for end in zip(*ranges, strict=True)]
        return tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*corners, strict=True))

    inputs = [name for name in ("token_ids", "past_len", "new_len", "logit_pos", "unit", CACHE) if name not in drop]
    outputs = [name for name in ("logits", NEXT_CACHE) if name not in drop]
    floats = (CACHE, NEXT_CACHE, "logits", "unit")
    tensors = {
        name: TensorRecord(name, dtypes.get(name, "FLOAT" if name in floats else "INT32"), declared(name))
        for name in (*inputs, *outputs)
    }
    dynamic = any(-1 in tensor.shape for tensor in tensors.values())
    recorded = tuple(
        ProfileRecord(f"p{i}", {n: (shape(n, *low), shape(n, *high), shape(n, *high)) for n in inputs})
        for i, ranges in enumerate(profiles if dynamic else ())
        for low, high in (zip(*ranges, strict=True),)
    )
    update = LayerRecord("update", "KV_CACHE_UPDATE", (CACHE,), (NEXT_CACHE,))
    layers = (update,) if NEXT_CACHE not in drop else ()
    weights = {"unit": Weight("unit", 4)} if "unit" not in drop else {}
    return NetworkRecord("fake", "fake 1", tensors, layers, tuple(inputs), tuple(outputs), recorded, weights)


def decode(rows: int, capacity: int) -> tuple[str, NetworkRecord]:
    return f"decode-b{rows}-c{capacity}", fake_record(capacity, ((rows, rows), (1, 1), (1, 1)))


def prefill(width: int, capacity: int) -> tuple[str, NetworkRecord]:
    logits = width if width <= SCORED else 1
    return f"prefill-s{width}-c{capacity}", fake_record(capacity, ((1, 1), (width, width), (logits, logits)))


def dynamic(capacity: int = CAPACITY) -> tuple[str, NetworkRecord]:
    """One plan that does everything."""
    rows, some = (1, BATCH), (1, INPUT)
    return f"all-c{capacity}", fake_record(capacity, (rows, (1, 1), (1, 1)), (rows, some, some))


SPLIT = (
    *(decode(rows, slots) for slots in (8, CAPACITY) for rows in (1, BATCH)),
    *(prefill(width, slots) for slots in (8, CAPACITY) for width in (SCORED, INPUT)),
)


class FakeEngine:
    """`ICudaEngine`."""

    def __init__(self, name: str, record: NetworkRecord, runs: list[tuple[str, tuple[int, ...]]]) -> None:
        self.name, self.record, self.runs = name, record, runs
        self.num_optimization_profiles = max(len(record.profiles), 1)

    @property
    def names(self):
        return (*self.record.inputs, *self.record.outputs)

    @property
    def num_io_tensors(self):
        return len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return SimpleNamespace(name="INPUT" if name in self.record.inputs else "OUTPUT")

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.record.tensors[name].dtype)

    def get_tensor_shape(self, name):
        return self.record.tensors[name].shape

    def get_tensor_profile_shape(self, name, profile_index):
        profiles = self.record.profiles
        shapes = profiles[profile_index].shapes[name] if profiles else (self.record.tensors[name].shape,) * 3
        return [list(shape) for shape in shapes]

    def get_aliased_input_tensor(self, name):
        return self.record.aliases.get(name)


class FakeContext:
    """`IExecutionContext`, as strict as TensorRT."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.profile = engine, 0
        self.shapes: dict[str, tuple[int, ...]] = {"unit": (1,)}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self.profile = profile_index
        return True

    def set_input_shape(self, name, shape):
        least, _, largest = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = shape
        return all(low <= size <= high for low, size, high in zip(least, shape, largest, strict=True))

    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return name in self.engine.names

    def get_tensor_shape(self, name):
        return (*self.shapes["logit_pos"], VOCAB)

    def infer_shapes(self):
        return [name for name in self.engine.record.inputs if name not in self.shapes]

    def execute_async_v3(self, stream_handle):
        assert self.addresses[CACHE] == self.addresses[NEXT_CACHE]
        self.engine.runs.append((self.engine.name, self.shapes["token_ids"]))
        compute(self.shapes, self.addresses)
        return True


def compute(shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
    """A run: every token of the width goes into the cache, but what does not fit is dropped, as TensorRT does."""
    ids, past, positions = (tensor(addresses[n], shapes[n]) for n in ("token_ids", "past_len", "logit_pos"))
    cache = tensor(addresses[CACHE], shapes[CACHE], ctypes.c_float, torch.float32)
    logits = tensor(addresses["logits"], (*shapes["logit_pos"], VOCAB), ctypes.c_float, torch.float32)
    unit = tensor(addresses["unit"], (1,), ctypes.c_float, torch.float32)
    width, capacity = ids.shape[1], cache.shape[2]
    for row, start in enumerate(past.tolist()):
        kept = ids[row, : max(capacity - start, 0)]
        cache[row, :, start : start + width] = kept.float()[:, None]
        for r, position in enumerate(positions[row].tolist()):
            assert 0 <= position < width
            logits[row, r] = 0
            logits[row, r, next_token(cache[row, 0, : start + position + 1, 0].int().tolist())] = unit


def tensor(address, shape, ctype=ctypes.c_int32, dtype=torch.int32) -> Tensor:
    return torch.frombuffer((ctype * prod(shape)).from_address(address), dtype=dtype).view(shape)


class FakeStream:
    """A stream that captures: what is replayed is what the context was told when it was captured."""

    device, handle = torch.device("cpu"), 0

    def __init__(self, captures: bool) -> None:
        self.captures, self.captured, self.replayed = captures, 0, 0

    @contextmanager
    def active(self) -> Iterator[None]:
        yield

    def capture(self, launch: Callable[[], None]) -> Callable[[], None] | None:
        if not self.captures:
            return None
        self.captured += 1
        context = launch.__self__._context  # type: ignore[attr-defined]
        shapes, addresses = dict(context.shapes), dict(context.addresses)

        def replay() -> None:
            self.replayed += 1
            compute(shapes, addresses)

        return replay


class FakeBackend:
    """A backend over fake engines.

    Attributes:
        runs: the plan and the shape of the tokens of each run that was not a replay.
        contexts: the plan of each context, and whether it was to be eager.
    """

    def __init__(self, *, captures: bool = False, weights: WeightBytes = WEIGHTS) -> None:
        self.stream, self.weights = FakeStream(captures), weights
        self.runs: list[tuple[str, tuple[int, ...]]] = []
        self.contexts: list[tuple[str, bool]] = []
        self.room: list[tuple[int, int]] = []

    def load(self, files: PlanFiles, record: NetworkRecord) -> FakeEngine:
        return FakeEngine(files.name, record, self.runs)

    def new_context(self, engine: FakeEngine, *, eager: bool) -> FakeContext:
        self.contexts.append((engine.name, eager))
        return FakeContext(engine)

    def context_bytes(self, engine: FakeEngine, profile: int) -> int:
        return 1000

    def check_memory(self, cache_bytes: int, context_bytes: int) -> None:
        self.room.append((cache_bytes, context_bytes))

    def take_messages(self) -> str:
        return "Error Code 3: out of luck"


def fake_plan(backend: FakeBackend, name: str, record: NetworkRecord) -> Plan:
    return Plan(backend, PlanFiles(name, f"{name}.engine", f"{name}.network.json"), record)


def fake_executor(
    backend: FakeBackend, plans: Sequence[tuple[str, NetworkRecord]] = SPLIT, **options
) -> TensorRTExecutor:
    return TensorRTExecutor(backend, [fake_plan(backend, *plan) for plan in plans], name="fake", **options)
