"""The TensorRT executor: the same for engines on a GPU and for emulated ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compiler.errors import RequestError, TargetError
from compiler.trt.library import Library, load_library
from compiler.trt.record import read_record
from runtime.tensorrt_executor.interface import Backend
from runtime.tensorrt_executor.runner import Runner
from runtime.tensorrt_executor.session import TensorRTSession
from runtime.tensorrt_executor.signature import read_signature

_DISTRIBUTIONS = {"tensorrt-rtx": "tensorrt-rtx-cu13", "tensorrt": "tensorrt"}


class TensorRTExecutor:
    """Runs a rank's engine. See `runtime.executor.Executor`.

    Attributes:
        name: `tensorrt-rtx`, `tensorrt` or `emulator`.
        signature: what the engine takes and gives.
    """

    def __init__(self, backend: Backend, *, name: str, file: str, cuda_graphs: bool = True) -> None:
        """Run a loaded engine.

        Args:
            backend: the engine.
            name: what messages call the executor.
            file: what messages call the engine.
            cuda_graphs: whether to record steps of one token a row where the backend can.

        Raises:
            EngineError: if it is no engine that llmc built.
        """
        self.name = name
        self.signature = read_signature(backend.engine, file)
        self._backend = backend
        self._runner = Runner(backend, self.signature, record=cuda_graphs)

    @classmethod
    def load(
        cls,
        folder: Path,
        files: Mapping[str, str],
        *,
        device: str = "auto",
        emulate: bool = False,
        target: str = "tensorrt-rtx",
        digest: str | None = None,
        capabilities: tuple[str, ...] = (),
        cuda_graphs: bool = True,
    ) -> TensorRTExecutor:
        """Load a rank.

        Args:
            folder: the engine directory.
            files: the rank's files by role: `engine` and `network`.
            device: `auto`, `cuda` or `cuda:N`; `auto` or `cpu` if emulated.
            emulate: whether to run it without TensorRT and GPU, slowly.
            target: the target that the files are of: `tensorrt-rtx` or `tensorrt`.
            digest: the sha256 of the engine's file, under which compiled kernels are kept; None keeps none.
            capabilities: compute capabilities that the engine was built for, if known; for messages.
            cuda_graphs: whether to record steps of one token a row, which makes them faster.

        Raises:
            TargetError: if this machine lacks the package, its version, the GPU or memory, or cannot run the engine.
            EngineError: if the files cannot be read, or are not of an engine that llmc built.
        """
        if emulate:
            from runtime.tensorrt_executor.emulated import EmulatedBackend

            backend: Backend = EmulatedBackend(folder, files["network"], device)
            return cls(backend, name="emulator", file=files["network"])
        from runtime.tensorrt_executor.gpu import GpuBackend
        from runtime.tensorrt_executor.gpu_checks import cuda_device

        library = load_library(target)
        check_version(library, read_record(folder / files["network"]).package)
        plan = folder / files["engine"]
        backend = GpuBackend(library, plan, cuda_device(device), digest=digest, capabilities=capabilities)
        return cls(backend, name=target, file=files["engine"], cuda_graphs=cuda_graphs)

    def open(self, batch: int, capacity: int) -> TensorRTSession:
        """Allocate caches for `batch` sequences of at most `capacity` tokens each.

        Raises:
            RequestError: if the engine was not built for so many, or the memory does not suffice.
        """
        limits = (
            ("sequences", batch, self.signature.max_batch),
            ("tokens a sequence", capacity, self.signature.capacity),
        )
        for what, size, limit in limits:
            if not 1 <= size <= limit:
                raise RequestError(f"{size} {what} were asked for; the engine is built for 1 to {limit}")
        self._backend.check_room(batch * sum(cache.row_bytes for cache in self.signature.caches))
        return TensorRTSession(self._backend, self._runner, self.signature, batch, capacity)


def check_version(library: Library, built_with: str) -> None:
    """TargetError unless an engine was built with this version of the package: TensorRT loads no other's."""
    if library.name != built_with:
        version = built_with.rpartition(" ")[2]
        raise TargetError(
            f"the engine was built with {built_with}, but {library.name} is installed",
            hint=f"pip install {_DISTRIBUTIONS[library.target]}=={version}, or compile the engine again",
        )
