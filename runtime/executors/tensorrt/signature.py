"""What a plan takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.step import STEP_INPUTS, dim_sizes
from compiler.trt_network.record import TensorRecord, Weight
from runtime.executors.tensorrt.interface import Shape

UNLIMITED = 2**31 - 1
AGAIN = "compile the engine again with this llmc"


@dataclass(frozen=True)
class Profile:
    """The least and the largest shape of every input that is no weight.

    Attributes:
        shapes: these shapes, by the input's name.
        by_token: the name of an input `[B, S, ...]`, if there is one.
        by_position: the name of an input `[B, R, ...]`, if there is one.
    """

    shapes: Mapping[str, tuple[Shape, Shape]]
    by_token: str | None
    by_position: str | None

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
        least, largest = self.shapes[str(self.by_token or self.by_position)]
        return least[0], largest[0]

    @property
    def width(self) -> tuple[int, int]:
        """The fewest and the most tokens per row."""
        return self._second(self.by_token)

    @property
    def logits(self) -> tuple[int, int]:
        """The fewest and the most wanted positions per row."""
        return self._second(self.by_position)

    def _second(self, name: str | None) -> tuple[int, int]:
        """The range of an input's second dim; any number, if there is no such input."""
        least, largest = self.shapes[name] if name else ((1, 1), (1, UNLIMITED))
        return least[1], largest[1]


@dataclass(frozen=True)
class Cache:
    """A cache that a run updates in place.

    Attributes:
        name: the input's name.
        output: the name of the output that shares its memory, or holds what is new.
        row: the shape of the cache of one sequence.
        dtype: the element type.
        in_place: whether a run updates it; otherwise the output is what is new, for the runtime to place.
    """

    name: str
    output: str
    row: Shape
    dtype: torch.dtype
    in_place: bool = True

    @property
    def capacity(self) -> int:
        """The tokens that a row holds."""
        return self.row[LINEAR.POSITION]

    def shape(self, rows: int, capacity: int) -> Shape:
        """The shape of a cache like this one, for `rows` sequences of `capacity` tokens."""
        return LINEAR.resized(self.row, rows, capacity)


@dataclass(frozen=True)
class Activation:
    """What a step is given for, or makes of, each token or wanted position of its rows: `[B, S, ...]` or `[B, R, ...]`.

    Attributes:
        name: the input's or output's name.
        rest: the shape without the first two dims.
        dtype: the element type.
        by_position: whether it is for each wanted position, not for each token.
    """

    name: str
    rest: Shape
    dtype: torch.dtype
    by_position: bool = False

    def shape(self, rows: int, width: int, logits: int) -> Shape:
        """The shape for `rows` rows of `width` tokens and `logits` wanted positions."""
        return (rows, logits if self.by_position else width, *self.rest)

    def empty(self, rows: int, width: int, logits: int, device: torch.device) -> Tensor:
        """Memory for it."""
        return torch.empty(self.shape(rows, width, logits), dtype=self.dtype, device=device)

    def zeros(self, rows: int, width: int, logits: int, device: torch.device) -> Tensor:
        """Memory for it, zeroed: padding must be finite, for it may come into products."""
        return self.empty(rows, width, logits, device).zero_()


@dataclass(frozen=True)
class Signature:
    """A plan's inputs and outputs.

    Attributes:
        step: those of `compiler.ir.step.STEP_INPUTS` that the plan reads.
        caches: its caches.
        weights: its inputs that are weights, and where their values are.
        received: its inputs that other stages send.
        sent: its outputs that go to other stages.
        logits: the logits; None, if another stage gives them.
        profiles: the profiles, in order; at least one.
    """

    step: tuple[str, ...]
    caches: tuple[Cache, ...]
    weights: tuple[tuple[TensorRecord, Weight], ...]
    received: tuple[Activation, ...]
    sent: tuple[Activation, ...]
    logits: Activation | None
    profiles: tuple[Profile, ...]

    @property
    def capacity(self) -> int:
        """The tokens that a row of the caches holds; any number, if there are none."""
        return self.caches[0].capacity if self.caches else UNLIMITED

    def input_shapes(self, rows: int, width: int, logits: int) -> dict[str, Shape]:
        """The shape of every input but weights in a run of `width` tokens and `logits` wanted positions per row."""
        sizes = dim_sizes(batch=rows, length=width, wanted=logits)
        shapes = {name: STEP_INPUTS[name].sizes(sizes) for name in self.step}
        shapes |= {cache.name: cache.shape(rows, cache.capacity) for cache in self.caches}
        return shapes | {item.name: item.shape(rows, width, logits) for item in self.received}

    @property
    def outputs(self) -> tuple[Activation, ...]:
        """The outputs but the caches."""
        return (*self.sent, self.logits) if self.logits else self.sent
