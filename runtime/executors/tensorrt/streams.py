"""Where an engine's work is put: a CUDA stream, or the calling thread."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from compiler.errors import EngineError


class HostStream:
    """The calling thread: work is done when the call returns. See `runtime.executors.tensorrt.interface.Stream`."""

    handle = 0

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Nothing has to wait."""
        yield

    def capture(self, launch: Callable[[], None]) -> None:
        """There is nothing to capture."""


class CudaStream:
    """A stream of its own: TensorRT is slow on the default one. See `runtime.executors.tensorrt.interface.Stream`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self.handle: int = self._stream.cuda_stream

    @contextmanager
    def active(self) -> Iterator[None]:
        """See `Stream.active`; the caller's stream is torch's current one."""
        caller = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(caller)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            caller.wait_stream(self._stream)

    def capture(self, launch: Callable[[], None]) -> Callable[[], None] | None:
        """See `Stream.capture`; as a CUDA graph. A warning says why, if that fails."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on compiling kernels meanwhile, so only this thread's calls are watched.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                launch()
        except (RuntimeError, EngineError) as error:
            warnings.warn(f"decoding runs without CUDA graphs, which is slower: {error}", stacklevel=2)
            return None
        return graph.replay
