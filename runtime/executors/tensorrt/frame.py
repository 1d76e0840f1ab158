"""The memory that a run reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.step import PAST_LEN, Step
from runtime.executors.tensorrt.interface import Shape
from runtime.executors.tensorrt.signature import Profile, Signature

# TensorRT wants addresses that are multiples of 256 bytes: 64 numbers of four bytes.
_ALIGNED = 64


@dataclass(frozen=True, eq=False)
class Frame:
    """The tensors of a run of one size; the same frame can be run many times.

    Attributes:
        shapes: the shape of every input that is no weight.
        addresses: where these inputs and the outputs lie.
        inputs: what the arguments of the step that the engine reads are written to, by name, on the CPU.
        length: how many numbers from the start of the packed inputs belong to the run.
        received: what other stages send, `[B, S, ...]` or `[B, R, ...]`, on the device; the caller writes it.
        outputs: what goes to other stages, likewise, and the logits, `[B, R, vocabulary]`, on the device.
        fresh: for each cache that a run does not update, the cache and what the run adds to it.
        past: where it adds it, `i32[B]` on the device; None if there are no such caches.
    """

    shapes: Mapping[str, Shape]
    addresses: Mapping[str, int]
    inputs: Mapping[str, Tensor]
    length: int
    received: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    fresh: Sequence[tuple[Tensor, Tensor]] = ()
    past: Tensor | None = None

    def place(self) -> None:
        """Put what the run added into the caches that it does not update."""
        if self.past is not None:
            for cache, new in self.fresh:
                LINEAR.append_on_device(cache, new, self.past)


class StepInputs:
    """Where the step's inputs of all runs lie, packed: one copy brings a run's inputs to the device."""

    def __init__(self, signatures: Iterable[Signature], device: torch.device) -> None:
        """Have room for the largest run that any profile of the plans takes."""
        most = max(_most_numbers(signature.step, p) for signature in signatures for p in signature.profiles)
        self._device = device
        self._packed = torch.zeros(most, dtype=torch.int32, device=device)
        self._staged = self._packed if device.type == "cpu" else torch.zeros(most, dtype=torch.int32).pin_memory()
        self._copied = None if device.type == "cpu" else torch.cuda.Event()

    def frame(self, signature: Signature, rows: int, width: int, logits: int, caches: Mapping[str, Tensor]) -> Frame:
        """The tensors of a run of `width` tokens and `logits` wanted positions per row, on caches of `rows` rows."""
        shapes = signature.input_shapes(rows, width, logits)
        inputs, addresses, starts, length = {}, {}, {}, 0
        for name in signature.step:
            count = prod(shapes[name])
            inputs[name] = self._staged[length : length + count].view(shapes[name])
            addresses[name] = self._packed[length:].data_ptr()
            starts[name] = length
            length += _aligned(count)
        fresh = []
        for cache in signature.caches:
            addresses[cache.name] = addresses[cache.output] = caches[cache.name].data_ptr()
            if not cache.in_place:
                new = torch.empty(cache.shape(rows, width), dtype=cache.dtype, device=self._device)
                addresses[cache.output] = new.data_ptr()
                fresh.append((caches[cache.name], new))
        past = self._packed[starts[PAST_LEN] :][:rows] if fresh else None
        received = {item.name: item.zeros(rows, width, logits, self._device) for item in signature.received}
        outputs = {item.name: item.empty(rows, width, logits, self._device) for item in signature.outputs}
        addresses |= {name: tensor.data_ptr() for name, tensor in {**received, **outputs}.items()}
        return Frame(shapes, addresses, inputs, length, received, outputs, fresh, past)

    def write(self, frame: Frame, step: Step) -> None:
        """Put a run's arguments where the engine reads them. What `step` lacks in size is padded with zeros."""
        if self._copied is None:
            _pack(frame, step)
            return
        self._copied.synchronize()  # the last copy reads the staged numbers until then
        _pack(frame, step)
        self._packed[: frame.length].copy_(self._staged[: frame.length], non_blocking=True)
        self._copied.record()


def _pack(frame: Frame, step: Step) -> None:
    for name, place in frame.inputs.items():
        given: Tensor = getattr(step, name)
        place.zero_()
        place[tuple(slice(size) for size in given.shape)] = given


def _most_numbers(step: tuple[str, ...], profile: Profile) -> int:
    return sum(_aligned(prod(profile.shapes[name][1])) for name in step)


def _aligned(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED
