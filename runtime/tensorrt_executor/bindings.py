"""The memory that an engine reads and writes: it stays where it is, so that a recorded step can be run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from runtime.tensorrt_executor.interface import Shape
from runtime.tensorrt_executor.signature import LOGITS, Signature

# TensorRT wants addresses that are multiples of 256 bytes: 64 numbers of four bytes.
_ALIGNED = 64


@dataclass(frozen=True, eq=False)
class Frame:
    """The tensors of a step of one size.

    Attributes:
        profile: the index of the profile that takes it.
        shapes: the shape of every input.
        addresses: where every input and output lies.
        inputs: what the step's inputs are written to, on the CPU.
        length: how many numbers from the start of the packed inputs belong to the step.
        logits: `[B, R, vocabulary]`, on the device.
    """

    profile: int
    shapes: Mapping[str, Shape]
    addresses: Mapping[str, int]
    inputs: Mapping[str, Tensor]
    length: int
    logits: Tensor


class Bindings:
    """The tensors of a batch.

    Attributes:
        caches: `[B, heads, C, head_dim]`, in the order of the signature.
    """

    def __init__(self, signature: Signature, batch: int, device: torch.device) -> None:
        """Allocate caches, zeroed. Raises torch's errors if there is no memory."""
        self.caches = [torch.zeros(batch, *c.row, dtype=c.dtype, device=device) for c in signature.caches]
        self._signature, self._batch, self._device = signature, batch, device
        self._packed = torch.zeros(self._most_inputs(), dtype=torch.int32, device=device)
        self._staged = (
            self._packed if device.type == "cpu" else torch.zeros_like(self._packed, device="cpu").pin_memory()
        )
        self._copied = None if device.type == "cpu" else torch.cuda.Event()
        self._logits: dict[int, Tensor] = {}
        self._frames: dict[tuple[int, int], Frame] = {}

    def frame(self, width: int, logits: int) -> Frame:
        """The tensors of a step of `width` tokens and `logits` wanted positions a row.

        Raises:
            RequestError: if no profile takes it.
        """
        if (width, logits) not in self._frames:
            self._frames[width, logits] = self._new_frame(width, logits)
        return self._frames[width, logits]

    def write(self, frame: Frame, step: Mapping[str, Tensor]) -> None:
        """Put a step's inputs where the engine reads them, with one copy on the current stream."""
        if self._copied is None:
            self._pack(frame, step)
            return
        self._copied.synchronize()  # the last copy reads the staged numbers until then
        self._pack(frame, step)
        self._packed[: frame.length].copy_(self._staged[: frame.length], non_blocking=True)
        self._copied.record()

    def _pack(self, frame: Frame, step: Mapping[str, Tensor]) -> None:
        for name, place in frame.inputs.items():
            place.copy_(step[name])

    def _new_frame(self, width: int, logits: int) -> Frame:
        shapes = self._signature.input_shapes(self._batch, width, logits)
        profile = self._signature.choose(shapes)
        inputs, addresses, length = {}, {}, 0
        for name in self._signature.step:
            count = prod(shapes[name])
            inputs[name] = self._staged[length : length + count].view(shapes[name])
            addresses[name] = self._packed[length:].data_ptr()
            length += _aligned(count)
        for cache, tensor in zip(self._signature.caches, self.caches, strict=True):
            addresses[cache.name] = addresses[cache.output] = tensor.data_ptr()
        out = self._logits_tensor(logits)
        return Frame(profile, shapes, {**addresses, LOGITS: out.data_ptr()}, inputs, length, out)

    def _logits_tensor(self, count: int) -> Tensor:
        if count not in self._logits:
            self._logits[count] = torch.zeros(
                self._batch, count, self._signature.vocab, dtype=self._signature.logits_dtype, device=self._device
            )
        return self._logits[count]

    def _most_inputs(self) -> int:
        """How many numbers the largest step takes, packed."""
        return sum(
            max(_aligned(self._batch * prod(profile.shapes[name][1][1:])) for profile in self._signature.profiles)
            for name in self._signature.step
        )


def _aligned(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED
