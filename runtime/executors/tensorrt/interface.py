"""What the executor calls of an engine: a part of TensorRT's interface, which the emulator has, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from compiler.store.weight_bytes import WeightBytes
from compiler.trt_network.plans import PlanFiles
from compiler.trt_network.record import NetworkRecord

Shape = tuple[int, ...]


class Member(Protocol):
    """A member of an enumeration."""

    @property
    def name(self) -> str:
        """Its name, such as `HALF`."""
        ...


class TensorContext(Protocol):
    """TensorRT's `IExecutionContext`. The calls that give a bool say with it whether they succeeded."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Use a profile."""
        ...

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        """Say which shape an input has."""
        ...

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Say where an input or output lies."""
        ...

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """The shape of a tensor, given the shapes of the inputs."""
        ...

    def infer_shapes(self) -> list[str]:
        """Names of inputs whose shapes are missing."""
        ...

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Put a run on a stream."""
        ...


class TensorEngine(Protocol):
    """TensorRT's `ICudaEngine`."""

    @property
    def num_io_tensors(self) -> int:
        """How many inputs and outputs there are."""
        ...

    @property
    def num_optimization_profiles(self) -> int:
        """How many profiles there are."""
        ...

    def get_tensor_name(self, index: int) -> str:
        """The name of an input or output."""
        ...

    def get_tensor_mode(self, name: str) -> Member:
        """`INPUT` or `OUTPUT`."""
        ...

    def get_tensor_dtype(self, name: str) -> Member:
        """The element type."""
        ...

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """The shape, with -1 for what is known at run time only."""
        ...

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Sequence[int]]:
        """An input's least, most usual and largest shape."""
        ...

    def get_aliased_input_tensor(self, name: str) -> str | None:
        """The input whose memory an output must share."""
        ...


class Stream(Protocol):
    """Where an engine's work is put."""

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        ...

    @property
    def handle(self) -> int:
        """CUDA's handle, as a number."""
        ...

    def active(self) -> AbstractContextManager[None]:
        """A block whose torch operations go to this stream; the caller's stream waits for them."""
        ...

    def capture(self, launch: Callable[[], None]) -> Callable[[], None] | None:
        """Record what `launch` puts on the stream, without running it.

        Returns:
            What runs it again, at little cost; None if this stream cannot capture.
        """
        ...


class Backend(Protocol):
    """How this machine runs the plans of a rank."""

    @property
    def weights(self) -> WeightBytes:
        """The weights by their `source`, where the plans can read them."""
        ...

    @property
    def stream(self) -> Stream:
        """Where the work is put. The calls below are made while it is active."""
        ...

    def load(self, files: PlanFiles, record: NetworkRecord) -> TensorEngine:
        """Load the engine of a plan.

        Raises:
            TargetError: if this machine cannot run it.
            EngineError: if its file cannot be read.
        """
        ...

    def new_context(self, engine: Any, *, eager: bool) -> TensorContext:
        """A context of an engine that `load` gave.

        Args:
            engine: the engine.
            eager: whether to make kernels for the very shapes of a run before it starts: for runs that are all alike.

        Raises:
            EngineError: if it cannot be made.
        """
        ...

    def context_bytes(self, engine: Any, profile: int) -> int:
        """The device memory that a context takes with a profile."""
        ...

    def check_memory(self, cache_bytes: int, context_bytes: int) -> None:
        """RequestError if the memory does not suffice for caches, and for contexts that are still to be made."""
        ...

    def take_messages(self) -> str:
        """What the engines reported as errors since the last call; empty if nothing."""
        ...
